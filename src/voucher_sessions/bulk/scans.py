"""List all vouchers or all redemptions, by SCAN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from voucher_sessions._core.call import Call
from voucher_sessions._core.requests import check_list_limit, check_text
from voucher_sessions._core.steps import Walk
from voucher_sessions._transport import clients
from voucher_sessions.bulk.rows import check_engine, in_chunks, result
from voucher_sessions.engine import VoucherSessions
from voucher_sessions.errors import CLIENT_ERRORS, RedemptionNotFound, VoucherNotFound
from voucher_sessions.results import Redemption, VoucherState

# The texts that name what is listed: a voucher's code; or a code and a redemption id.
Name = TypeVar("Name", bound=tuple[str, ...])


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
    check_engine(engine)
    batch = check_list_limit("batch", batch)
    verbs = engine._verbs

    def walks() -> list[Walk[bytes]]:
        return [verbs.scanned_vouchers(node.tag, batch) for node in clients.primaries(engine.client)]

    return _read_each(engine, walks, verbs.voucher_at, verbs.get_voucher, VoucherNotFound)


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
    check_engine(engine)
    code = None if code is None else check_text("code", code)
    batch = check_list_limit("batch", batch)
    verbs = engine._verbs

    def walks() -> list[Walk[bytes]]:
        if code is not None:
            return [verbs.scanned_redemptions_of(code, batch)]
        return [verbs.scanned_redemptions(node.tag, batch) for node in clients.primaries(engine.client)]

    return _read_each(engine, walks, verbs.redemption_at, verbs.get_redemption, RedemptionNotFound)


def _read_each(
    engine: VoucherSessions,
    walks: Callable[[], list[Walk[bytes]]],
    name_at: Callable[[bytes], Name | None],
    call_of: Callable[..., Call[Any]],
    missing: type[Exception],
) -> Iterator[Any]:
    """Read what the walks find, and yield it. An error ``missing`` means that it was deleted or has expired meanwhile."""
    for names in _scanned(engine, walks, name_at):
        calls = [call_of(*name) for name in names]
        for outcome in engine._transport.run_all(calls):  # not the runner, which would ask the loader
            if not isinstance(outcome, missing):
                yield result(outcome)


def _scanned(
    engine: VoucherSessions, walks: Callable[[], list[Walk[bytes]]], name_at: Callable[[bytes], Name | None]
) -> Iterator[list[Name]]:
    """Walk over each server, and yield the names that their keys have, none of them twice.

    If the view of the servers has changed meanwhile, walk over all of them once more.
    """
    yielded = set[Name]()
    while True:
        before = _view(engine)
        for walk in walks():
            for found in in_chunks(engine._runner.walk(walk)):
                names = dict.fromkeys(name for key in found if (name := name_at(key)))
                fresh = [name for name in names if name not in yielded]
                yielded.update(fresh)
                yield fresh
        if _view(engine) == before:
            return


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
