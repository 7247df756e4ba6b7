"""The same calls give the same results on fakeredis and on every real server, except for times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.servers import BINARIES, Server

from voucher_sessions import Used, Voucher, VoucherSessions, VoucherSessionsError

pytestmark = pytest.mark.unmeasured

CODES = st.sampled_from(["A", "B", "ü }{ %"])
KEYS = st.sampled_from(["k1", "k 2", "🎁"])
IDS = st.sampled_from(["o1", "o2"])
AMOUNTS = st.integers(0, 6) | st.sampled_from([2**53 - 1, 10**15 + 1])
MAYBE = st.none() | AMOUNTS
TTLS = st.sampled_from([(1, "MILLISECONDS"), (7, "DAYS"), (0.5, "HOURS")])


def call(verb: str, *positional: Any, **named: Any) -> st.SearchStrategy[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    return st.tuples(st.just(verb), st.tuples(*positional), st.fixed_dictionaries(named))


SESSIONS = st.builds(lambda key, ttl: {"type": "LOCK", "key": key, "ttl": ttl[0], "ttl_unit": ttl[1]}, KEYS, TTLS)
CALLS = st.one_of(
    call(
        "put_voucher",
        st.builds(Voucher, code=CODES, quantity=MAYBE, credits=AMOUNTS, points=AMOUNTS),
        used=st.none() | st.builds(Used, quantity=AMOUNTS, credits=AMOUNTS, points=AMOUNTS),
    ),
    call("get_voucher", CODES),
    call("delete_voucher", CODES),
    call("validate", CODES, credits=AMOUNTS, points=AMOUNTS, session=st.none() | SESSIONS),
    call("validate", CODES, credits=AMOUNTS, session=SESSIONS),
    call(
        "redeem",
        CODES,
        credits=MAYBE,
        points=MAYBE,
        session=st.none() | KEYS,
        redemption_id=IDS,
        if_session_missing=st.sampled_from(["raise", "redeem"]),
    ),
    call("release", CODES, KEYS),
    call("rollback", CODES, IDS),
    call("list_sessions", CODES, limit=st.integers(1, 3)),
    call("get_redemption", CODES, IDS),
)
TIMES = {"expires_at", "remaining_ms", "redeemed_at", "retry_after_ms"}


def plain(value: Any) -> Any:
    """A result without what depends on the clock."""
    if isinstance(value, list):
        return sorted((plain(each) for each in value), key=repr)
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items() if name not in TIMES}
    return value


def results(engine: VoucherSessions, calls: list[Any]) -> list[Any]:
    seen: list[Any] = []
    for verb, positional, named in calls:
        try:
            seen.append(plain(getattr(engine, verb)(*positional, **named)))
        except VoucherSessionsError as error:
            seen.append((type(error).__name__, plain(error.__dict__)))
        if (named.get("session") or {}) and "MILLISECONDS" in repr(named["session"]):
            time.sleep(0.003)  # on both sides that lock is gone before the next call
    return seen


@pytest.mark.parametrize("name", list(BINARIES))
def test_fakeredis_and_real_servers_agree(name: str, server_of: Callable[[str], Server]) -> None:
    server = server_of(name)
    with server.client() as admin, server.client() as client:

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(CALLS, min_size=5, max_size=40))
        def agree(calls: list[Any]) -> None:
            admin.flushall()
            real = results(VoucherSessions(client), calls)
            fake = results(VoucherSessions(fakeredis.FakeRedis(server=fakeredis.FakeServer())), calls)
            assert real == fake

        agree()
