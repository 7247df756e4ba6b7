"""Check the rows of the bulk tools, and compare them with what Redis has."""

from __future__ import annotations

from typing import NamedTuple

from voucher_sessions._core.requests import mapping_fields
from voucher_sessions.errors import InvalidRequest
from voucher_sessions.models import RedemptionRow, Used, Voucher, checked_model, is_a
from voucher_sessions.results import Difference, Redemption, VoucherState


class VoucherRow(NamedTuple):
    """A checked row of ``put_vouchers``."""

    voucher: Voucher
    used: Used | None

    @property
    def code(self) -> str:
        return self.voucher.code

    def conflict(self, state: VoucherState) -> str | None:
        """How the voucher in Redis differs from the row; None if it does not.

        If more is used than the row says, that is no conflict: redemptions were made since.
        """
        differs = [
            name
            for name in ("quantity", "credits", "points")
            if getattr(state, name).limit != getattr(self.voucher, name)
            or (self.used is not None and getattr(state, name).used < getattr(self.used, name))
        ]
        return f"the voucher {self.voucher.code!r} exists with another {' and '.join(differs)}" if differs else None


def voucher_row(row: object) -> VoucherRow:
    """The checked row."""
    voucher, used = row if is_a(row, tuple) and len(row) == 2 else (row, None)
    return VoucherRow(
        checked_model("voucher", Voucher, voucher), None if used is None else checked_model("used", Used, used)
    )


def redemption_row(row: object) -> RedemptionRow:
    """The checked row: a mapping, or a ``Redemption`` as the engine returns it."""
    fields = (
        dict(row.__dict__)
        if is_a(row, Redemption) or is_a(row, RedemptionRow)
        else mapping_fields("row", row, "Redemption or a mapping of its fields")
    )
    fields.pop("replayed", None)
    checked = RedemptionRow(**fields)
    for name in ("credits", "points"):
        if (getattr(checked, f"{name}_rolled_back") or 0) > getattr(checked, name):
            raise InvalidRequest(f"{name}_rolled_back", f"must be at most the {name} of the redemption")
    return checked


def conflict(row: RedemptionRow, receipt: Redemption) -> str | None:
    """How the receipt differs from the row in the fields that the row has; None if they agree."""
    known = {
        name: value
        for name in ("credits", "points", "session_key", "rolled_back", "credits_rolled_back", "points_rolled_back")
        if (value := getattr(row, name)) is not None
    }
    if receipt.session_key is None or (row.session_key == receipt.session_key):
        known.pop("session_key", None)
    if row.rolled_back:  # everything was given back; how it was divided into rollbacks does not matter
        known.pop("credits_rolled_back", None)
        known.pop("points_rolled_back", None)
    differs = [name for name, value in known.items() if getattr(receipt, name) != value]
    return f"the receipt {row.id!r} of voucher {row.code!r} has another {' and '.join(differs)}" if differs else None


def difference(row: RedemptionRow, receipt: Redemption | None) -> Difference | None:
    """How the row differs from its receipt. A row without any field of rollbacks means that there was none."""
    if receipt is None:
        return Difference(code=row.code, id=row.id, kind="no_receipt", row=row, receipt=None)
    if (row.credits, row.points) != (receipt.credits, receipt.points):
        return Difference(code=row.code, id=row.id, kind="amounts", row=row, receipt=receipt)
    if _rolled_back(row, receipt) != (receipt.rolled_back, receipt.credits_rolled_back, receipt.points_rolled_back):
        return Difference(code=row.code, id=row.id, kind="rolled_back", row=row, receipt=receipt)
    return None


def _rolled_back(row: RedemptionRow, receipt: Redemption) -> tuple[bool, int, int]:
    """What was given back according to the row, in the form of the receipt's fields."""
    if row.rolled_back:
        return True, row.credits, row.points
    back = row.credits_rolled_back or 0, row.points_rolled_back or 0
    # If the row has only amounts, and they are all that was taken, they may have been given back by one rollback or by
    # several: then the receipt decides.
    is_all = row.rolled_back is None and any(back) and back == (row.credits, row.points)
    return is_all and receipt.rolled_back, *back
