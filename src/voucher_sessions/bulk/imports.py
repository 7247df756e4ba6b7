"""Put many vouchers, and import redemptions that were made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from voucher_sessions._core import rows as row_checks
from voucher_sessions._core.call import Call
from voucher_sessions._core.requests import check_if_exists
from voucher_sessions.bulk.rows import OnBadRow, RedemptionLike, Rows, result
from voucher_sessions.engine import VoucherSessions
from voucher_sessions.errors import InvalidRequest, VoucherExists, VoucherNotFound
from voucher_sessions.models import IfExists, RedemptionRow, Used, Voucher, is_a
from voucher_sessions.results import BulkReport, RowProblem

R = TypeVar("R", bound=RedemptionRow | row_checks.VoucherRow)
VoucherRow = Voucher | tuple[Voucher, Used]


def put_vouchers(
    engine: VoucherSessions,
    rows: Iterable[VoucherRow],
    *,
    if_exists: IfExists = "keep",
    on_progress: Callable[[int], object] | None = None,
    on_bad_row: OnBadRow = "raise",
) -> BulkReport:
    """Put many vouchers, such as a catalogue. The rows may come from a generator; memory stays constant.

    Args:
        engine: The engine.
        rows: The vouchers, or tuples of a ``Voucher`` and the ``Used`` that another system has counted for it.
        if_exists: What to do with a voucher that exists: ``"keep"`` leaves it as it is; ``"update"`` sets its limits,
            and its used figures if the row has them, which overwrites what was redeemed since; ``"raise"`` treats the
            row as a wrong one.
        on_progress: Called with the number of rows that are done, bad rows included, after every few hundred rows.
        on_bad_row: What to do with a row that is wrong, or for which the engine's ``partition`` fails: ``"raise"``
            stops, ``"collect"`` goes on and reports it.

    Returns:
        How many vouchers are new, and how many were known; and the positions, counted from 0, of rows that are wrong
        and, with ``if_exists="keep"``, of rows whose voucher has other limits, or less used than the row says.

    Raises:
        InvalidRequest: A parameter is wrong; or with ``on_bad_row="raise"`` a row, named as ``rows.<position>``.
            A few hundred rows are sent together, so rows before it and some after it may have been put.
        VoucherExists: A voucher exists, with ``if_exists="raise"`` and ``on_bad_row="raise"``.
        OutcomeUnknown, ServerUnavailable, ServerRefused, NotDurable: As from ``put_voucher``; some rows may have been
            put. Run it again with all rows, with ``if_exists="keep"`` if they have used figures.
    """
    if_exists = check_if_exists("if_exists", if_exists)
    return _imported(
        Rows(engine, rows, on_progress, on_bad_row),
        check=row_checks.voucher_row,
        call_of=lambda row: engine._verbs.import_voucher(row.voucher, row.used, if_exists),
        refusals=VoucherExists,
        conflict=lambda row, state: row.conflict(state) if if_exists == "keep" else None,
    )


def import_redemptions(
    engine: VoucherSessions,
    rows: Iterable[RedemptionLike],
    *,
    count: bool,
    on_progress: Callable[[int], object] | None = None,
    on_bad_row: OnBadRow = "raise",
) -> BulkReport:
    """Write receipts of redemptions that another system has made, or that a lost server had, with their own time.

    Afterwards, a redemption that is repeated under its id is recognised, and it can be rolled back. Put the vouchers
    first. A receipt that exists stays as it is. So if a backup was restored that lacks a rollback, the row is reported
    as conflicting, and by ``reconcile`` as ``rolled_back``: repeat that rollback with ``rollback``.

    The ids of partial rollbacks are not imported. If ``credits_rolled_back`` or ``points_rolled_back`` is in a row, a
    repeated rollback would be given back a second time. To restore a lost server, leave both out of the rows, and
    afterwards repeat the partial rollbacks with their ids: those that are in the backup are recognised.

    Args:
        engine: The engine. If it has a ``receipt_ttl``, the receipts expire that long after the import.
        rows: ``Redemption`` models, or mappings of ``code``, ``id``, ``credits``, ``points`` and, where they are known,
            ``redeemed_at`` (a datetime with a time zone), ``session_key``, ``rolled_back``, ``credits_rolled_back`` and
            ``points_rolled_back``. If a row has a ``session_key`` and its receipt is new, it also ends the lock of that
            session, which a restored backup may contain, even if the cart has locked anew since. A row whose receipt is
            known ends no lock.
        count: True: the redemptions are not in the used figures yet, so each receipt that is new adds what it took,
            without what was given back according to its row. False: the used figures contain them already.
        on_progress: Called with the number of rows that are done, bad rows included, after every few hundred rows.
        on_bad_row: What to do with a row that is wrong, whose voucher does not exist, or for which the engine's
            ``partition`` fails: ``"raise"`` stops, ``"collect"`` goes on and reports it.

    Returns:
        How many receipts are new, and how many were known; and the positions, counted from 0, of rows that are wrong
        and of rows that differ from the receipt that exists.

    Raises:
        InvalidRequest: A parameter is wrong; or with ``on_bad_row="raise"`` a row, named as ``rows.<position>``.
            A few hundred rows are sent together, so rows before it and some after it may have been imported.
        VoucherNotFound: There is no such voucher, with ``on_bad_row="raise"``.
        OutcomeUnknown, ServerUnavailable, ServerRefused, NotDurable: As from ``redeem``; some rows may have been
            imported. Run it again with all rows: receipts that exist are not counted again.
    """
    if not is_a(count, bool):
        raise InvalidRequest("count", "must be True or False")
    return _imported(
        Rows(engine, rows, on_progress, on_bad_row),
        check=row_checks.redemption_row,
        call_of=lambda row: engine._verbs.import_redemption(row, count=count),
        refusals=(VoucherNotFound, InvalidRequest),
        conflict=row_checks.conflict,
    )


def _imported(
    rows: Rows,
    *,
    check: Callable[[Any], R],
    call_of: Callable[[R], Call[Any]],
    refusals: type[Exception] | tuple[type[Exception], ...],
    conflict: Callable[[R, Any], str | None],
) -> BulkReport:
    """Import the rows, and count what became of them.

    Args:
        rows: The rows.
        check: Checks a row.
        call_of: The call that imports it, which returns whether it was new, and what Redis has of it.
        refusals: The errors of that call which mean that the row is wrong.
        conflict: How what Redis has differs from the row; None if it does not.
    """
    new = known = 0
    conflicting: list[RowProblem] = []
    for at, row, outcome in rows.outcomes(check, call_of):
        if isinstance(outcome, refusals):
            rows.add_bad(at, outcome)
            continue
        is_new, found = result(outcome)
        if is_new:
            new += 1
        elif problem := conflict(row, found):
            conflicting.append(RowProblem(position=at, problem=problem))
        else:
            known += 1
    return BulkReport(new=new, known=known, conflicting=conflicting, bad=sorted(rows.bad, key=lambda bad: bad.position))
