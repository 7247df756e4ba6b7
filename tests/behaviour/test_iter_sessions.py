"""``iter_sessions`` yields each session that is live during the whole walk once, whatever other calls do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import pytest
import redis.exceptions
from conftest import Backend, Clock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import untyped
from support.scripted_clients import AsyncScriptedClient, ScriptedClient

from behaviour.test_semantics import KEYS, lock
from voucher_sessions import (
    ActiveSession,
    InvalidRequest,
    ServerUnavailable,
    SessionNotFound,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)

Walk = Callable[..., Iterator[ActiveSession]]
MS: Any = "MILLISECONDS"
two_backends = pytest.mark.parametrize("backend", ["fakeredis", "valkey"], indirect=True)
on_fakeredis = pytest.mark.parametrize("backend", ["fakeredis"], indirect=True)


def awaited(found: AsyncIterator[ActiveSession], loop: asyncio.AbstractEventLoop) -> Iterator[ActiveSession]:
    """The items of an async iterator, as an iterator."""
    while True:
        try:
            yield loop.run_until_complete(anext(found))
        except StopAsyncIteration:
            return


@pytest.fixture
def walk(loop: asyncio.AbstractEventLoop) -> Walk:
    """``iter_sessions`` of either engine as an iterator."""

    def walk(engine: Any, code: str, **options: Any) -> Iterator[ActiveSession]:
        found = engine.iter_sessions(code, **options)
        return found if isinstance(found, Iterator) else awaited(found, loop)

    return walk


def locked(engine: VoucherSessions, number: int, *, ttl_ms: int = 60_000, step_ms: int = 0) -> list[str]:
    """Sessions that expire one after the other, by ``step_ms``; on a clock that stands still 0 is the same millisecond."""
    engine.put_voucher(Voucher(code="GIFT", quantity=None, credits=10**6, points=10**6))
    keys = [f"k{at:02}" for at in range(number)]
    for at, key in enumerate(keys):
        assert engine.validate("GIFT", credits=at % 3, points=at, session=lock(key, ttl_ms + at * step_ms)).valid
    return keys


def share_a_millisecond(backend: Backend, at_ms: int) -> None:
    """All locks expire then: on a real server, locks of one millisecond are made so."""
    members: Any = backend.admin.zrange("vs:{GIFT}:locks", 0, -1)
    if members:
        backend.admin.zadd("vs:{GIFT}:locks", dict.fromkeys(members, at_ms), xx=True)


# --- Exactly once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True], ids=["apart", "of one millisecond"])
def test_each_session_comes_once_with_every_batch(
    engine: VoucherSessions, backend: Backend, clock: Clock, walk: Walk, tied: bool
) -> None:
    keys = locked(engine, 9, step_ms=10)
    if tied:
        share_a_millisecond(backend, clock.now_ms() + 50_000)
    listed = [each.model_dump(exclude={"remaining_ms"}) for each in engine.list_sessions("GIFT")]
    before = backend.contents()
    for batch in (1, 2, 8, 9, 10, 10_000):
        found = list(walk(engine, "GIFT", batch=batch))
        assert [each.model_dump(exclude={"remaining_ms"}) for each in found] == listed, batch
    assert sorted(each.key for each in walk(engine, "GIFT")) == keys
    assert backend.contents() == before


@pytest.mark.parametrize("batch", [1, 2])
def test_none_and_one(engine: VoucherSessions, clock: Clock, walk: Walk, batch: int) -> None:
    """The only lock is stored in the book, without an index."""
    locked(engine, 0)
    assert list(walk(engine, "GIFT", batch=batch)) == []
    engine.validate("GIFT", credits=7, session=lock("cart", 60_000))
    (found,) = walk(engine, "GIFT", batch=batch)
    assert (found.key, found.credits, found.ttl) == ("cart", 7, None)
    assert found.expires_at == engine.get_session("GIFT", "cart").expires_at
    session = engine.extend("GIFT", "cart", ttl=200, ttl_unit=MS)
    clock.reach(round(session.expires_at.timestamp() * 1000))
    assert list(walk(engine, "GIFT", batch=batch)) == []


@two_backends
def test_keys_come_out_as_they_went_in(engine: VoucherSessions, walk: Walk) -> None:
    locked(engine, 0)
    for at, key in enumerate(KEYS):
        engine.validate("GIFT", points=at, session=lock(key, 60_000))
        for batch in (1, 1000):
            found = {each.key: each.points for each in walk(engine, "GIFT", batch=batch)}
            assert found == {key: at for at, key in enumerate(KEYS[: at + 1])}


# --- While others work ----------------------------------------------------------------------------------------------


CHANGES = st.tuples(
    st.sampled_from(["validate", "validate", "extend", "extend", "release", "redeem"]),
    st.integers(0, 9),
    st.sampled_from([0, 3]),
    st.sampled_from([50_000, 50_001, 51_000, 52_000, 53_000]),
)
NUMBERS = count()


@two_backends
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from([50_000, 51_000, 52_000]), min_size=1, max_size=8),
    st.lists(st.lists(CHANGES, max_size=3), max_size=8),
    st.sampled_from([1, 1, 2, 3, 1000]),
)
def test_what_lives_through_the_whole_walk_comes_exactly_once(
    backend: Backend, ttls: list[int], changes: list[list[Any]], batch: int
) -> None:
    """Except a session whose expiry or amounts are lowered more than once during the walk."""
    engine, code = VoucherSessions(backend.client()), f"V{next(NUMBERS)}"
    engine.put_voucher(Voucher(code=code, quantity=None, credits=10**6))
    for at, ttl_ms in enumerate(ttls):
        engine.validate(code, session=lock(f"k{at}", ttl_ms))
    lives_on = {f"k{at}" for at in range(len(ttls))}
    ever = set(lives_on)
    set_back: dict[str, int] = dict.fromkeys(lives_on, 0)
    told: list[str] = []
    for at, session in enumerate(engine.iter_sessions(code, batch=batch)):
        told.append(session.key)
        for verb, number, credits, ttl_ms in changes[at] if at < len(changes) else ():
            key = f"k{number}"
            old = {each.key: each for each in engine.list_sessions(code)}.get(key)
            try:
                if verb == "validate":
                    engine.validate(code, credits=credits, session=lock(key, ttl_ms))
                    ever.add(key)
                elif verb == "extend":
                    engine.extend(code, key, ttl=ttl_ms, ttl_unit=MS)
                elif verb == "release":
                    engine.release(code, key)
                else:
                    engine.redeem(code, session=key)
            except SessionNotFound:
                continue
            if verb in ("release", "redeem"):
                lives_on.discard(key)
            elif key in set_back and old is not None:
                new = engine.get_session(code, key)
                set_back[key] += (new.expires_at, new.credits) < (old.expires_at, old.credits)
    assert len(told) == len(set(told)), "none comes twice"
    assert ever.issuperset(told)
    assert {key for key in lives_on if set_back[key] <= 1} <= set(told)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_sessions_that_are_extended_as_they_come_end_the_walk(engine: VoucherSessions, walk: Walk, batch: int) -> None:
    keys = locked(engine, 5, step_ms=10)
    told = []
    for session in walk(engine, "GIFT", batch=batch):
        told.append(session.key)
        assert len(told) <= 5
        engine.extend("GIFT", session.key, ttl=90_000, ttl_unit=MS)
    assert told == keys


@two_backends
@pytest.mark.parametrize("batch", [1, 2])
def test_a_session_that_is_shortened_to_before_the_place_reached_still_comes(
    engine: VoucherSessions, walk: Walk, batch: int
) -> None:
    keys = locked(engine, 5, step_ms=1000)
    steps = walk(engine, "GIFT", batch=batch)
    told = [next(steps).key for _ in range(3)]
    engine.extend("GIFT", keys[4], ttl=30_000, ttl_unit=MS)
    told += [each.key for each in steps]
    assert (sorted(told), told[:3]) == (keys, keys[:3])


@two_backends
def test_the_session_at_the_place_reached_may_end(
    engine: VoucherSessions, backend: Backend, clock: Clock, walk: Walk
) -> None:
    """Also if other sessions expire in the same millisecond: the walk continues at the right place."""
    keys = locked(engine, 6)
    share_a_millisecond(backend, clock.now_ms() + 50_000)
    told = []
    for session in walk(engine, "GIFT", batch=1):
        told.append(session.key)
        engine.release("GIFT", session.key)
    assert sorted(told) == keys


@two_backends
def test_a_second_lock_during_the_walk_of_the_only_one(engine: VoucherSessions, walk: Walk) -> None:
    locked(engine, 1)
    steps = walk(engine, "GIFT", batch=1)
    told = [next(steps).key]
    engine.validate("GIFT", session=lock("later", 90_000))
    engine.validate("GIFT", session=lock("k00", 95_000))
    told += [each.key for each in steps]
    assert told == ["k00", "later"]


@on_fakeredis
def test_what_expires_in_mid_walk_does_not_come(engine: VoucherSessions, clock: Clock, walk: Walk) -> None:
    keys = locked(engine, 6, ttl_ms=10_000, step_ms=10_000)
    steps = walk(engine, "GIFT", batch=1)
    assert next(steps).key == keys[0]
    clock.advance(40_000)
    assert [each.key for each in steps] == keys[4:], "live as long as now < expires_at"


# --- Vouchers that are not there, bad input -------------------------------------------------------------------------


@two_backends
def test_an_unknown_voucher_is_not_found_at_the_first_step(engine: VoucherSessions, walk: Walk) -> None:
    steps = walk(engine, "NOBODY")
    with pytest.raises(VoucherNotFound) as missing:
        next(steps)
    assert missing.value.codes == ("NOBODY",)
    locked(engine, 3)
    steps = walk(engine, "GIFT")
    engine.delete_voucher("GIFT")
    with pytest.raises(VoucherNotFound):
        next(steps)


@two_backends
@pytest.mark.parametrize("told", [1, 2, 3])
@pytest.mark.parametrize("put_anew", [False, True])
def test_a_voucher_that_is_deleted_in_mid_walk_ends_it(
    engine: VoucherSessions, walk: Walk, told: int, put_anew: bool
) -> None:
    keys = locked(engine, 6, step_ms=10)
    steps = walk(engine, "GIFT", batch=2)
    found = [next(steps).key for _ in range(told)]
    engine.delete_voucher("GIFT")
    if put_anew:
        locked(engine, 0)
    assert found + [each.key for each in steps] == keys[: 4 if told == 3 else 2], "only what had been read"


@on_fakeredis
def test_bad_input_is_refused_at_once(engine: VoucherSessions) -> None:
    bad: list[tuple[str, dict[str, Any]]] = [
        *(("batch", {"code": "A", "batch": batch}) for batch in (0, -1, 10_001, True, "5", None, 1.5)),
        *(("code", {"code": code}) for code in ("", " ", None, 5, "x" * 257, b"A")),
    ]
    for field, arguments in bad:
        with pytest.raises(InvalidRequest) as refused:
            engine.iter_sessions(**arguments)
        assert refused.value.field == field, arguments


# --- What the server is asked for -----------------------------------------------------------------------------------


@two_backends
def test_each_call_does_bounded_work(backend: Backend) -> None:
    """It asks for one batch, and only when the caller has taken the one before; a small voucher takes one call."""
    client: Any = backend.client()
    execute = client.execute_command
    replies: list[Any] = []

    def recorded(*words: Any, **options: Any) -> Any:
        reply = execute(*words, **options)
        if words[0] in ("EVAL", "EVALSHA"):
            replies.append(reply)
        return reply

    engine = VoucherSessions(client)
    locked(engine, 30)
    list(engine.iter_sessions("GIFT"))  # now the server has the script
    client.execute_command = recorded
    engine = VoucherSessions(client)
    steps = engine.iter_sessions("GIFT", batch=10)
    assert not replies
    for taken in range(1, 31):
        next(steps)
        assert len(replies) == (taken + 9) // 10
    assert list(steps) == []
    assert len(replies) == 8, "twice, since some may have been set back meanwhile"
    assert all(len(reply) <= 3 + 2 * 10 for reply in replies)
    replies.clear()
    assert len(list(engine.iter_sessions("GIFT", batch=31))) == 30
    assert len(replies) == 1


def test_a_call_that_gets_no_reply(walk: Walk) -> None:
    replies = [[b"sessions", 5, b"1 0 cart", 9], redis.exceptions.ConnectionError("gone")]
    for engine in (
        untyped.VoucherSessions(ScriptedClient(*replies)),
        untyped.AsyncVoucherSessions(AsyncScriptedClient(*replies)),
    ):
        steps = walk(engine, "A", batch=1)
        assert next(steps).key == "cart"
        with pytest.raises(ServerUnavailable) as failed:
            next(steps)
        assert (failed.value.verb, failed.value.codes) == ("iter_sessions", ("A",))


@on_fakeredis
@pytest.mark.parametrize("later_ms", [0, 1])
def test_a_session_is_not_listed_from_its_expiry_on(
    engine: VoucherSessions, walk: Walk, clock: Clock, later_ms: int
) -> None:
    keys = locked(engine, 3, ttl_ms=1000, step_ms=100)
    clock.advance(1000 + later_ms)
    assert [each.key for each in engine.list_sessions("GIFT")] == keys[1:]
    assert [each.key for each in walk(engine, "GIFT")] == keys[1:]
