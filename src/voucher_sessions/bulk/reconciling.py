"""Compare the shop's redemptions with the receipts in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from voucher_sessions._core import rows as row_checks
from voucher_sessions.bulk.rows import RedemptionLike, Rows, result
from voucher_sessions.bulk.scans import scan_redemptions
from voucher_sessions.engine import VoucherSessions
from voucher_sessions.errors import RedemptionNotFound
from voucher_sessions.results import Difference


def reconcile(engine: VoucherSessions, rows: Iterable[RedemptionLike]) -> Iterator[Difference]:
    """Compare the redemptions that the shop has recorded with the receipts in Redis, and yield each difference.

    Nothing is changed. A redemption without a row is reported as ``no_row``, even if it was rolled back: record it with
    ``rolled_back=True``. Redemptions that are made or rolled back while it runs can be reported, too: run it again, and
    they are gone. To find the receipts that no row has, it reads all keys of the server with SCAN, on a cluster of
    every primary, and keeps the codes and ids of all rows and receipts in memory.

    Args:
        engine: The engine.
        rows: As for ``import_redemptions``.

    Raises:
        InvalidRequest: A parameter is wrong: it is raised by this call. Or a row is wrong, named as
            ``rows.<position>``: it is raised by the iteration.
        ServerUnavailable, ServerRefused, CorruptState: As from ``get_redemption``, by the iteration.
    """
    return _differences(engine, Rows(engine, rows))


def _differences(engine: VoucherSessions, rows: Rows) -> Iterator[Difference]:
    recorded: set[tuple[str, str]] = set()
    outcomes = rows.outcomes(row_checks.redemption_row, lambda row: engine._verbs.get_redemption(row.code, row.id))
    for _, row, outcome in outcomes:
        recorded.add((row.code, row.id))
        receipt = None if isinstance(outcome, RedemptionNotFound) else result(outcome)
        difference = row_checks.difference(row, receipt)
        if difference is not None:
            yield difference
    for receipt in scan_redemptions(engine):
        if (receipt.code, receipt.id) not in recorded:
            yield Difference(code=receipt.code, id=receipt.id, kind="no_row", row=None, receipt=receipt)
