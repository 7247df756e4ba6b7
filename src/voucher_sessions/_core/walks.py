"""Walks: all live sessions of a voucher, or all keys of a server, with a bounded amount of work per call."""

from __future__ import annotations

from voucher_sessions._core import scripts
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.replies import ListedSession, Reply, as_bytes, listed_sessions, without_status
from voucher_sessions._core.steps import Walk
from voucher_sessions.errors import VoucherNotFound
from voucher_sessions.results import ActiveSession


def sessions(keys: Keys, code: str, batch: int) -> Walk[ActiveSession]:
    """Yield each session that is live during the whole walk, once.

    The index is read in the order of expiry. A session that is extended meanwhile is found again further on, and is
    yielded only once. A session whose expiry is set earlier can move to before the place that the walk has reached.
    Therefore, if the first pass takes more than one call, a second pass follows.
    """
    yielded: set[str] = set()
    for is_last in (False, True):
        from_ms, after, calls = 0, b"", 0
        while True:
            try:
                listed: list[ListedSession] = yield _list(keys, code, batch, from_ms, after)
            except VoucherNotFound:
                if not yielded and not calls and not is_last:
                    raise
                return  # deleted meanwhile, and its sessions with it
            calls += 1
            yield tuple(each.session for each in listed if each.session.key not in yielded)
            yielded.update(each.session.key for each in listed)
            if len(listed) < batch:
                break
            from_ms, after = listed[-1].expires_at_ms, listed[-1].member
        if calls == 1:
            return


def _list(keys: Keys, code: str, batch: int, from_ms: int, after: bytes) -> Call[list[ListedSession]]:
    return Call(
        verb="iter_sessions",
        codes=(code,),
        script=scripts.LIST_SESSIONS,
        keys=keys.voucher(code),
        args=[str(batch), str(from_ms), after],
        read=listed_sessions,
        changes=False,
    )


def scanned_keys(verb: str, key: bytes, pattern: bytes, batch: int) -> Walk[bytes]:
    """The keys that match a pattern, on the server that has ``key``. SCAN can return a key more than once."""
    cursor = b"0"
    while True:
        cursor, found = yield Call(
            verb=verb,
            codes=(),
            script=scripts.SCAN,
            keys=[key],
            args=[cursor, pattern, str(batch)],
            read=_scanned,
            changes=False,
        )
        yield found
        if cursor == b"0":
            return


def _scanned(reply: Reply) -> tuple[bytes, tuple[bytes, ...]]:
    """The reply 'keys': the next cursor, and keys."""
    cursor, *found = map(as_bytes, without_status(reply, b"keys"))
    return cursor, tuple(found)
