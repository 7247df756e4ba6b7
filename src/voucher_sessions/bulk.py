"""Bulk tools for operators, with a sync engine: import vouchers and redemptions, compare, and list everything.

The imports are safe to run again: rows that were written before are recognised, and counted as known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, Literal, TypeVar

from voucher_sessions._core import rows as row_checks
from voucher_sessions._core.requests import check_if_exists, check_list_limit, check_text
from voucher_sessions._core.steps import Walk
from voucher_sessions._transport import clients
from voucher_sessions.engine import VoucherSessions
from voucher_sessions.errors import CLIENT_ERRORS, InvalidRequest, RedemptionNotFound, VoucherExists, VoucherNotFound
from voucher_sessions.models import Checker, IfExists, RedemptionRow, Used, Voucher, is_a
from voucher_sessions.results import BulkReport, Difference, Redemption, RowProblem, VoucherState

__all__ = [
    "BulkReport",
    "Difference",
    "RedemptionLike",
    "RedemptionRow",
    "RowProblem",
    "VoucherRow",
    "import_redemptions",
    "put_vouchers",
    "reconcile",
    "scan_redemptions",
    "scan_vouchers",
]

T = TypeVar("T")
R = TypeVar("R")
OnBadRow = Literal["raise", "collect"]
VoucherRow = Voucher | tuple[Voucher, Used]
RedemptionLike = Redemption | RedemptionRow | Mapping[str, Any]

# How many calls are sent together. More would hardly be faster, and would delay the calls of other processes.
_CHUNK: Final = 200


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
        on_bad_row: What to do with a row that is wrong: ``"raise"`` stops, ``"collect"`` goes on and reports it.

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
    tally = _Tally(engine, on_progress, on_bad_row)
    for chunk in tally.chunks(rows, row_checks.voucher_row):
        calls = [engine._verbs.import_voucher(row.voucher, row.used, if_exists) for _, row in chunk]
        for (at, row), outcome in zip(chunk, engine._runner.run_all(calls), strict=True):
            if isinstance(outcome, VoucherExists):
                tally.add_bad(at, outcome)
                continue
            created, state = _result(outcome)
            if created:
                tally.new += 1
            elif if_exists == "keep" and (problem := row.conflict(state)):
                tally.conflicting.append(RowProblem(position=at, problem=problem))
            else:
                tally.known += 1
    return tally.report()


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
        on_bad_row: What to do with a row that is wrong or whose voucher does not exist: ``"raise"`` stops,
            ``"collect"`` goes on and reports it.

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
    tally = _Tally(engine, on_progress, on_bad_row)
    for chunk in tally.chunks(rows, row_checks.redemption_row):
        calls = [engine._verbs.import_redemption(row, count=count) for _, row in chunk]
        for (at, row), outcome in zip(chunk, engine._runner.run_all(calls), strict=True):
            if isinstance(outcome, VoucherNotFound | InvalidRequest):
                tally.add_bad(at, outcome)
                continue
            created, receipt = _result(outcome)
            if created:
                tally.new += 1
            elif problem := row_checks.conflict(row, receipt):
                tally.conflicting.append(RowProblem(position=at, problem=problem))
            else:
                tally.known += 1
    return tally.report()


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
    tally = _Tally(engine, None, "raise")
    tally.check_iterable(rows)
    return _differences(engine, tally, rows)


def _differences(engine: VoucherSessions, tally: _Tally, rows: Iterable[RedemptionLike]) -> Iterator[Difference]:
    recorded: set[tuple[str, str]] = set()
    for chunk in tally.chunks(rows, row_checks.redemption_row):
        recorded.update((row.code, row.id) for _, row in chunk)
        calls = [engine._verbs.get_redemption(row.code, row.id) for _, row in chunk]
        for (_, row), outcome in zip(chunk, engine._runner.run_all(calls), strict=True):
            receipt = None if isinstance(outcome, RedemptionNotFound) else _result(outcome)
            difference = row_checks.difference(row, receipt)
            if difference is not None:
                yield difference
    for receipt in scan_redemptions(engine):
        if (receipt.code, receipt.id) not in recorded:
            yield Difference(code=receipt.code, id=receipt.id, kind="no_row", row=None, receipt=receipt)


def scan_vouchers(engine: VoucherSessions, *, batch: int = 1000) -> Iterator[VoucherState]:
    """Iterate over all vouchers under the engine's prefix, in no particular order.

    For exports and for operators, not for requests of customers: it reads all keys of the server with SCAN, on a
    cluster of every primary. A voucher that exists during the whole scan is yielded exactly once; for this, the codes
    are kept in memory.

    Args:
        engine: The engine.
        batch: About how many keys one call looks at, 1 to 10,000.

    Raises:
        InvalidRequest: A parameter is wrong. It is raised by this call; nothing was sent.
        ServerUnavailable, ServerRefused, CorruptState: As from ``get_voucher``, by the iteration.
    """
    _check_engine(engine)
    batch = check_list_limit("batch", batch)
    return _scanned_vouchers(engine, batch)


def _scanned_vouchers(engine: VoucherSessions, batch: int) -> Iterator[VoucherState]:
    def walk(place: bytes) -> Walk[bytes]:
        return engine._verbs.scanned_vouchers(place, batch)

    for names in _scanned(engine, walk, None, b""):
        calls = [engine._verbs.get_voucher(code) for code, _ in names]
        for outcome in engine._transport.run_all(calls):  # not the runner, which would ask the loader
            if not isinstance(outcome, VoucherNotFound):  # deleted
                yield _result(outcome)


def scan_redemptions(engine: VoucherSessions, code: str | None = None, *, batch: int = 1000) -> Iterator[Redemption]:
    """Iterate over all redemptions under the engine's prefix, or those of one voucher, in no particular order.

    For exports and for operators, not for requests of customers: it reads all keys of the server with SCAN, even for
    one voucher; without a code, on a cluster, of every primary. A receipt that exists during the whole scan is yielded
    exactly once; for this, the codes and ids are kept in memory.

    Args:
        engine: The engine.
        code: The code of a voucher. None: the redemptions of all vouchers.
        batch: About how many keys one call looks at, 1 to 10,000.

    Raises:
        InvalidRequest: A parameter is wrong. It is raised by this call; nothing was sent.
        ServerUnavailable, ServerRefused, CorruptState: As from ``get_redemption``, by the iteration.
    """
    _check_engine(engine)
    code = None if code is None else check_text("code", code)
    batch = check_list_limit("batch", batch)
    return _scanned_redemptions(engine, code, batch)


def _scanned_redemptions(engine: VoucherSessions, code: str | None, batch: int) -> Iterator[Redemption]:
    def walk(place: bytes) -> Walk[bytes]:
        return engine._verbs.scanned_redemptions(place, code, batch)

    for names in _scanned(engine, walk, code, b":redemption:"):
        calls = [engine._verbs.get_redemption(code, id_) for code, id_ in names]
        for outcome in engine._transport.run_all(calls):
            if not isinstance(outcome, RedemptionNotFound):  # expired
                yield _result(outcome)


def _scanned(
    engine: VoucherSessions, walk: Callable[[bytes], Walk[bytes]], code: str | None, kind: bytes
) -> Iterator[list[tuple[str, str]]]:
    """Walk over each server, and yield the codes and ids of the keys of a kind, none of them twice.

    If the view of the servers has changed during a walk, all of them are walked over once more.
    """
    keys, told = engine._verbs.keys, set[tuple[str, str]]()
    view: object = None
    while view != (view := _view(engine)):
        nodes = [keys.probe(node.tag) for node in clients.primaries(engine.client)]
        for place in nodes if code is None else [keys.voucher(code)[0]]:
            for found in _in_chunks(engine._runner.walk(walk(place)), _CHUNK):
                names = dict.fromkeys(name for key in found if (name := _name(keys.code_of(key), kind)))
                fresh = [name for name in names if name not in told]
                told.update(fresh)
                yield fresh


def _view(engine: VoucherSessions) -> object:
    """Which slots each server has, and the id of its process. If it changes, keys have moved, or cursors are invalid."""
    owners = clients.read_slot_owners(engine.client)
    return owners, [_run_id(engine, node.options) for node in clients.primaries(engine.client)]


def _run_id(engine: VoucherSessions, node: dict[str, Any]) -> object:
    """The id of a server's process; None if it cannot be read."""
    try:
        fields = engine._transport.ask(("INFO", "server"), node).reply
    except CLIENT_ERRORS:
        return None
    return fields.get("run_id") if isinstance(fields, Mapping) else None


def _name(found: tuple[str, bytes] | None, kind: bytes) -> tuple[str, str] | None:
    """The code and the id of a key of this kind; None for any other key."""
    if found is None or not found[1].startswith(kind) or (not kind and found[1]):
        return None
    code, id_ = found[0], found[1].removeprefix(kind)
    try:
        return check_text("code", code), check_text("id", id_.decode()) if kind else ""
    except (UnicodeDecodeError, InvalidRequest):  # something other than this library has written it
        return None


class _Tally:
    """Checks the rows of one call and counts what became of them."""

    def __init__(self, engine: VoucherSessions, on_progress: Callable[[int], object] | None, on_bad_row: Any) -> None:
        _check_engine(engine)
        if on_progress is not None and not callable(on_progress):
            raise InvalidRequest("on_progress", "must be a function of the number of rows that are done, or None")
        self._on_progress = on_progress
        self._collects = Checker(OnBadRow)("on_bad_row", on_bad_row) == "collect"
        self.new = self.known = 0
        self.conflicting: list[RowProblem] = []
        self._bad: list[RowProblem] = []

    @staticmethod
    def check_iterable(rows: object) -> None:
        if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
            raise InvalidRequest("rows", "must be an iterable of rows")

    def chunks(self, rows: Iterable[T], check: Callable[[T], R]) -> Iterator[list[tuple[int, R]]]:
        """Yield the checked rows with their positions, in chunks, and report the progress after each chunk."""
        self.check_iterable(rows)
        done = 0
        for chunk in _in_chunks(enumerate(rows), _CHUNK):
            checked: list[tuple[int, R]] = []
            for at, row in chunk:
                try:
                    checked.append((at, check(row)))
                except InvalidRequest as error:
                    self.add_bad(at, error)
            yield checked
            done += len(chunk)
            if self._on_progress is not None:
                self._on_progress(done)

    def add_bad(self, at: int, error: Exception) -> None:
        """Raise the error of a wrong row or, with ``on_bad_row="collect"``, keep it for the report."""
        if not self._collects:
            if isinstance(error, InvalidRequest):
                raise InvalidRequest(f"rows.{at}.{error.field}", error.problem)
            error.add_note(f"This error is about row {at}, counted from 0.")
            raise error
        self._bad.append(RowProblem(position=at, problem=str(error)))

    def report(self) -> BulkReport:
        bad = sorted(self._bad, key=lambda each: each.position)
        return BulkReport(new=self.new, known=self.known, conflicting=self.conflicting, bad=bad)


def _check_engine(engine: object) -> None:
    if not is_a(engine, VoucherSessions):
        raise InvalidRequest("engine", "must be a VoucherSessions: the bulk tools need a sync engine")


def _in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _result(outcome: Any) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
