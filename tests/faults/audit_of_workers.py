"""Compares what is stored in the end with the recorded results of the workers.

A call with an unknown outcome may have taken effect or not. An acknowledged change is either there or counted as lost.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from faults.history import Op
from faults.redemption_workers import HOUR_MS
from voucher_sessions import ActiveSession, Redemption, RedemptionNotFound, VoucherSessions


@dataclass
class Audit:
    """Acknowledged changes that leave something to be seen: those of which it is ``there``, and of which it is not."""

    calls: int = 0
    unknown: int = 0
    there: list[Op] = field(default_factory=list)
    lost: list[Op] = field(default_factory=list)

    def __str__(self) -> str:
        changes = f"{len(self.there)} acknowledged changes there, {len(self.lost)} lost"
        return f"{self.calls} calls, {self.unknown} with an unknown outcome, {changes}"

    @property
    def is_a_prefix(self) -> bool:
        """Whether what is there may all have come before what is lost: no call of it began after a lost one ended."""
        lost_from = min((op.end or 0 for op in self.lost), default=2**63)
        return all(op.begin <= lost_from for op in self.there)


def audit(engine: VoucherSessions, history: Iterable[Op]) -> Audit:
    """Raise AssertionError where the books disagree with themselves, or hold what nobody can have asked for."""
    ops = list(history)
    codes = sorted({code for op in ops for code in op.codes})
    receipts = _receipts(engine, ops)
    live = {code: {each.key: each for each in engine.list_sessions(code)} for code in codes}
    by_key = defaultdict(list)
    for op in ops:
        by_key[op.args.get("key")].append(op)
    for code in codes:
        _check_totals(engine, code, live[code], receipts)
        for key in live[code]:
            assert any(map(_may_hold, by_key[key])), f"{key!r} is locked on {code!r}"
    found = Audit(len(ops), sum(op.end is None for op in ops))
    for op in ops:
        match _is_there(op, receipts, live, alone=by_key[op.args.get("key")] == [op]):
            case True:
                found.there.append(op)
            case False:
                found.lost.append(op)
    return found


def _is_there(
    op: Op,
    receipts: dict[tuple[str, str], Redemption],
    live: dict[str, dict[str, ActiveSession]],
    *,
    alone: bool,
) -> bool | None:
    """Whether the books show what was acknowledged; None where it leaves nothing that lasts, or was not the first to.

    ``alone``: the session was locked by this call, and nothing else was done with it.
    """
    if op.end is None or (isinstance(op.seen, dict) and "error" in op.seen):
        return None
    if op.verb in {"redeem", "rollback"}:
        receipt = receipts.get((op.codes[0], op.args["id"]))
        if receipt is None or (op.verb == "rollback" and not receipt.rolled_back):
            return False
        quantity, credits, *_, replayed = op.seen[0]
        assert (receipt.quantity, receipt.credits) == (quantity, credits), op
        return None if replayed else True
    if op.verb == "validate" and op.seen[0]["lock"] and op.args["ttl_ms"] == HOUR_MS and alone:
        return op.args["key"] in live[op.codes[0]]
    return None


def _receipts(engine: VoucherSessions, ops: list[Op]) -> dict[tuple[str, str], Redemption]:
    """Those of all ids that anybody used."""
    receipts = {}
    for code, id_ in {(op.codes[0], op.args["id"]) for op in ops if op.verb == "redeem"}:
        try:
            receipts[code, id_] = engine.get_redemption(code, id_)
        except RedemptionNotFound:
            continue
    return receipts


def _check_totals(
    engine: VoucherSessions,
    code: str,
    sessions: dict[str, ActiveSession],
    receipts: dict[tuple[str, str], Redemption],
) -> None:
    state = engine.get_voucher(code)
    spent = [each.credits for (of, _), each in receipts.items() if of == code and not each.rolled_back]
    held = [each.credits for each in sessions.values()]
    assert (state.quantity.used, state.credits.used) == (len(spent), sum(spent)), code
    assert (state.quantity.locked, state.credits.locked) == (len(held), sum(held)), code


def _may_hold(op: Op) -> bool:
    """Whether a lock of this call may be live now: nothing outlives its TTL."""
    return op.verb == "validate" and (op.end is None or op.end + op.args["ttl_ms"] * 1_000_000 > time.monotonic_ns())
