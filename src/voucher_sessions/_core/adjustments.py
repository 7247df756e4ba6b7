"""Receipts of adjustments: how they are read, and the results made of them."""

from __future__ import annotations

from typing import Final

from voucher_sessions._core.receipts import fields_of
from voucher_sessions._core.replies import (
    Reply,
    as_amount,
    as_bytes,
    from_stored,
    voucher_of,
    without_status,
)
from voucher_sessions.errors import AdjustmentConflict, AdjustmentRefused
from voucher_sessions.results import Adjustment

_BALANCES: Final = {1: "quantity", 2: "credits", 3: "points"}


def adjustment(code: str, adjustment_id: str, changes: tuple[int, int, int], call_id: str, reply: Reply) -> Adjustment:
    """The reply 'adjusted' or 'adjustment_refused'. ``call_id`` is the id of this call: another id means a replay."""
    if reply[0] == b"adjustment_refused":
        at, limit = int(reply[1]), int(reply[2])
        without_limit = (at, limit) == (1, -1)
        raise AdjustmentRefused(code, _BALANCES[at], None if without_limit else as_amount(limit), changes[at - 1])
    item, *voucher = without_status(reply, b"adjusted")
    life, adjusted, adjusted_by = from_stored(_fields, as_bytes(item))
    replayed = adjusted_by != call_id
    is_another = bool(voucher) and as_bytes(voucher[0]).decode() != life  # put again after a deletion
    if adjusted != changes or (is_another and replayed):
        raise AdjustmentConflict(code, adjustment_id)
    quantity, credits, points = changes
    return Adjustment(
        id=adjustment_id,
        code=code,
        quantity=quantity,
        credits=credits,
        points=points,
        voucher=voucher_of(code, voucher[1:]) if voucher and not is_another else None,
        replayed=replayed,
    )


def _fields(value: bytes) -> tuple[str, tuple[int, int, int], str]:
    """The fields of a receipt: the life of the voucher, the changes, the call id."""
    life, quantity, credits, points, call_id = fields_of(value, 5)
    return life, (int(quantity), int(credits), int(points)), call_id
