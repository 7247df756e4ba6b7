"""The ids of redemptions in answers.

A later request has only the id, and the engine needs the vouchers' codes as well. So the id contains both: it is the
JSON of the redemption id, the codes, and the position of one of them, as base64url. It is neither a secret nor a
permission.
The codes are sorted: a repeated request may name the vouchers in another order, and has the same ids in its answer.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Final, NamedTuple

from pydantic import Field, TypeAdapter

from voucher_sessions.contrib.fastapi.request_bodies import MAX_STACK, Text

_PREFIX: Final = "r_"
_Codes = Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_STACK)]
_Position = Annotated[int, Field(strict=True, ge=0, lt=MAX_STACK)]


class RedemptionRef(NamedTuple):
    """The redemption of one voucher, of several vouchers together, or of one of several: that at ``position``."""

    redemption_id: str
    codes: tuple[str, ...]
    position: int | None = None

    @property
    def is_parent(self) -> bool:
        """Whether it is the redemption of several vouchers together."""
        return len(self.codes) > 1 and self.position is None

    @property
    def parent(self) -> RedemptionRef | None:
        """The redemption of all vouchers, if this is one of several."""
        return None if self.position is None else self._replace(position=None)

    @property
    def members(self) -> list[RedemptionRef]:
        """The redemption of each voucher."""
        if len(self.codes) == 1:
            return [self]
        return [self._replace(position=position) for position in range(len(self.codes))]

    def member(self, code: str) -> RedemptionRef:
        """The redemption of this voucher."""
        return self.members[self.codes.index(code)]

    @property
    def code(self) -> str:
        """The code of the voucher, if this is the redemption of one."""
        return self.codes[self.position or 0]

    @property
    def text(self) -> str:
        """The id in answers."""
        return (
            _PREFIX
            + urlsafe_b64encode(_FIELDS.dump_json((self.redemption_id, self.codes, self.position)))
            .rstrip(b"=")
            .decode()
        )

    @property
    def rollback_text(self) -> str:
        """The id of its rollback."""
        return f"r{self.text}"


_FIELDS: Final = TypeAdapter[tuple[str, tuple[str, ...], int | None]](tuple[Text, _Codes, _Position | None])


def read_id(text: str) -> RedemptionRef | None:
    """What an id contains; None if the text is not an id that an answer can have."""
    encoded = text.removeprefix(_PREFIX).encode(errors="replace")
    try:
        found = RedemptionRef(*_FIELDS.validate_json(urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))))
    except ValueError:  # also pydantic's ValidationError
        return None
    is_possible = found.codes == tuple(sorted(set(found.codes))) and (
        found.position is None or found.position < len(found.codes) > 1
    )
    # One redemption has one id: other spellings of the same JSON or base64 are refused.
    return found if is_possible and found.text == text else None
