"""List all vouchers or all redemptions, by SCAN."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from voucher_sessions._core.call import Call
from voucher_sessions._core.requests import check_list_limit, check_text
from voucher_sessions._core.steps import Walk
from voucher_sessions._transport import clients
from voucher_sessions.bulk.rows import check_engine, in_chunks, result
from voucher_sessions.engine import VoucherSessions
from voucher_sessions.errors import CLIENT_ERRORS, RedemptionNotFound, VoucherNotFound
from voucher_sessions.results import Redemption, VoucherState

# In CLUSTER NODES: a slot that is being moved to another server, or from one.
_OPEN_SLOT: Final = re.compile(rb"\[(\d+)(-[<>]-\w+)\]")

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

    def walks(open_slots: frozenset[int]) -> list[Walk[bytes]]:
        return [verbs.scanned_vouchers(tag, batch) for tag in _tags(engine, open_slots)]

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

    def walks(open_slots: frozenset[int]) -> list[Walk[bytes]]:
        if code is not None and not open_slots:
            return [verbs.scanned_redemptions_of(code, batch)]
        return [verbs.scanned_redemptions(tag, code, batch) for tag in _tags(engine, open_slots)]

    return _read_each(engine, walks, verbs.redemption_at, verbs.get_redemption, RedemptionNotFound)


def _read_each(
    engine: VoucherSessions,
    walks: Callable[[frozenset[int]], list[Walk[bytes]]],
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
    engine: VoucherSessions,
    walks: Callable[[frozenset[int]], list[Walk[bytes]]],
    name_at: Callable[[bytes], Name | None],
) -> Iterator[list[Name]]:
    """Yield the names that the keys of all servers have, none of them twice.

    If the view of the servers changes during a pass over all of them, another pass follows. A slot that is open may stay
    open for good, and its keys may move one by one. They move one way, so a pass can miss a key only if it moves just
    then, and the next pass finds it: two passes without a change are enough.
    """
    yielded = set[Name]()
    unchanged, before = 0, _view(engine)
    while unchanged < (2 if before.open_slots else 1):
        for walk in walks(before.open_slots):
            for found in in_chunks(engine._runner.walk(walk)):
                names = dict.fromkeys(name for key in found if (name := name_at(key)))
                fresh = [name for name in names if name not in yielded]
                yielded.update(fresh)
                yield fresh
        after = _view(engine)
        unchanged = unchanged + 1 if after == before else 0
        before = after


def _tags(engine: VoucherSessions, open_slots: frozenset[int]) -> list[str]:
    """A hash tag of each server."""
    return [node.tag for node in clients.primaries(engine.client, open_slots)]


class _View(NamedTuple):
    """The servers, as a scan must know them. If one of these changes, keys have moved or cursors have become invalid."""

    slot_owners: dict[int, str]
    run_ids: list[object]
    slots_on_the_move: frozenset[tuple[int, bytes]]

    @property
    def open_slots(self) -> frozenset[int]:
        return frozenset(slot for slot, _ in self.slots_on_the_move)


def _view(engine: VoucherSessions) -> _View:
    owners = clients.read_slot_owners(engine.client)
    nodes = [node.options for node in clients.primaries(engine.client)]
    moves = frozenset(move for node in nodes for move in _moves(engine, node)) if owners else frozenset()
    return _View(owners, [_run_id(engine, node) for node in nodes], moves)


def _run_id(engine: VoucherSessions, node: dict[str, Any]) -> object:
    """The id of a server's process; None if it cannot be read."""
    fields = _answer(engine, node, "INFO", "server")
    return fields.get("run_id") if isinstance(fields, Mapping) else None


def _moves(engine: VoucherSessions, node: dict[str, Any]) -> list[tuple[int, bytes]]:
    """The open slots of a server, each with where it moves; none if they cannot be read."""
    reply = _answer(engine, node, "CLUSTER", "NODES")
    lines = reply.splitlines() if isinstance(reply, bytes) else []
    of_itself = [line for line in lines if b"myself" in line]  # a server lists only its own open slots
    return [(int(slot), move) for line in of_itself for slot, move in _OPEN_SLOT.findall(line)]


def _answer(engine: VoucherSessions, node: dict[str, Any], *question: str) -> object:
    """A server's answer; None if there is none."""
    try:
        return engine._transport.ask(question, node).reply
    except CLIENT_ERRORS:
        return None
