"""A stable code for each error, and sentences for customers, for the forms and the translations of a shop.

The sentences are English and go through Django's ``gettext``: a project translates them in its own catalogue, or maps the
codes to sentences of its own.
"""

from __future__ import annotations

import re
from typing import Final

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from voucher_sessions import (
    CorruptState,
    EmbeddedServerError,
    LimitExceeded,
    NotDurable,
    OutcomeUnknown,
    ServerRefused,
    ServerUnavailable,
    Validation,
    VoucherSessionsError,
)

_SENTENCES: Final = {
    "voucher_not_found": _("This code does not exist."),
    "quantity_exceeded": _("This code has been used up."),
    "gift_amount_exceeded": _("The balance of this gift card is too low."),
    "loyalty_card_points_exceeded": _("There are not enough points on this card."),
    "session_not_found": _("Your code was kept for you for a limited time, which has passed. Please enter it again."),
    "redemption_rolled_back": _("This payment was cancelled. Please start a new one."),
}
_LOCKED_BY_OTHERS: Final = ngettext_lazy(
    "This code is in use in another cart. Please try again in %(minutes)d minute.",
    "This code is in use in another cart. Please try again in %(minutes)d minutes.",
    "minutes",
)
_CANNOT_CHECK: Final = _("We cannot check this code at the moment. Please try again later.")
_NOT_USABLE: Final = _("This code cannot be used here.")
_SERVER_ERRORS: Final = (
    CorruptState,
    EmbeddedServerError,
    NotDurable,
    OutcomeUnknown,
    ServerRefused,
    ServerUnavailable,
)


def error_code(refusal: VoucherSessionsError | Validation) -> str:
    """The code of an error, or of a validation that was refused. It does not change between versions.

    For a limit that is exceeded it is the ``reason``; for other errors the name of the class: ``session_not_found``.
    A validation of an unknown code has the code of ``VoucherNotFound``.
    """
    if isinstance(refusal, LimitExceeded):
        return refusal.reason
    if isinstance(refusal, Validation):
        return "voucher_not_found" if refusal.reason == "not_found" else str(refusal.reason)
    return re.sub(r"(?<!^)([A-Z])", r"_\1", type(refusal).__name__).lower()


def form_error(refusal: VoucherSessionsError | Validation) -> ValidationError:
    """A ``ValidationError`` for a form, with a sentence for the customer and the code of ``error_code``.

    Its ``params`` are ``minutes``, after which it is worth trying again, and ``locked_by_others``: whether other carts
    have locked what is missing. Without such carts ``minutes`` is 0.
    """
    locked = isinstance(refusal, LimitExceeded | Validation) and refusal.locked_by_others
    wait_ms = refusal.retry_after_ms if isinstance(refusal, LimitExceeded | Validation) else None
    minutes = -(-(wait_ms or 0) // 60_000)
    code = error_code(refusal)
    otherwise = _CANNOT_CHECK if isinstance(refusal, _SERVER_ERRORS) else _NOT_USABLE
    sentence = _LOCKED_BY_OTHERS if locked else _SENTENCES.get(code, otherwise)
    return ValidationError(sentence, code=code, params={"minutes": minutes, "locked_by_others": locked})
