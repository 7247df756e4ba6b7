"""No more calls change a key at once than its scripts remember; further ones wait for their turn."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis.asyncio
from support.servers import Server
from support.sessions import lock
from support.waiting import until

from transport.relay import Relay
from transport.shared_engines import credits_of, engine_on, fill, number_of
from voucher_sessions import AsyncVoucherSessions, VoucherSessions
from voucher_sessions._core import scripts
from voucher_sessions._core.call import Call
from voucher_sessions._transport import keys_in_use
from voucher_sessions._transport.keys_in_use import MAX_CHANGES, AsyncKeysInUse, KeysInUse


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    server = server_of("valkey")
    fill(server)
    return server


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with Relay(server.socket) as relay:
        yield relay


def changes_of(relay: Relay) -> int:
    """How many calls came that change the session."""
    return sum(b"vs:{V0}:session:cart" in command for command in relay.calls)


def validate(engine: Any, at: int) -> Any:
    return engine.validate("V0", credits=at, session=lock("cart"))


# --- Calls of an asyncio engine ------------------------------------------------------------------------------------


def test_no_more_than_four_changes_of_one_session_are_in_flight(server: Server, relay: Relay) -> None:
    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await validate(engine, 0)
            relay.hold()
            tasks = [asyncio.ensure_future(validate(engine, at)) for at in range(1, 31)]
            await relay.came(MAX_CHANGES)
            reading = asyncio.ensure_future(credits_of(engine, "V1"))
            await relay.came(MAX_CHANGES + 1)
            assert changes_of(relay) == MAX_CHANGES
            relay.let_go()
            assert await reading == number_of("V1")
            validations = await asyncio.gather(*tasks)
            assert [each.session.credits for each in validations] == list(range(1, 31))
            assert relay.most_in_flight <= MAX_CHANGES + 1
            (session,) = await engine.list_sessions("V0")
            assert session.credits == 30, "they kept their order"

    asyncio.run(main())


def test_calls_of_other_keys_do_not_wait(server: Server, relay: Relay) -> None:
    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await validate(engine, 0)
            relay.hold()
            one = [asyncio.ensure_future(validate(engine, at)) for at in range(10)]
            others = [asyncio.ensure_future(engine.validate("V0", session=lock(f"cart-{at}"))) for at in range(10)]
            await relay.came(MAX_CHANGES + 10)
            relay.let_go()
            await asyncio.gather(*one, *others)

    asyncio.run(main())


def test_a_waiting_call_that_is_cancelled_does_not_keep_others_from_their_turn(server: Server, relay: Relay) -> None:
    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await validate(engine, 0)
            relay.hold()
            tasks = [asyncio.ensure_future(validate(engine, at)) for at in range(20)]
            await relay.came(MAX_CHANGES)
            for task in tasks[MAX_CHANGES:15]:
                task.cancel()
            relay.let_go()
            results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
            waited = results[MAX_CHANGES:15]
            assert all(isinstance(each, asyncio.CancelledError) for each in waited)
            assert all(each.session.credits == at for at, each in enumerate(results) if each not in waited)
            assert changes_of(relay) == MAX_CHANGES + 5

    asyncio.run(main())


def test_a_cancelled_call_keeps_its_keys_until_its_reply_has_come(server: Server, relay: Relay) -> None:
    """What it has sent may still run, and its id would take the place of an earlier call's that is sent again."""

    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await validate(engine, 0)
            relay.hold()
            tasks = [asyncio.ensure_future(validate(engine, at)) for at in range(2 * MAX_CHANGES)]
            await relay.came(MAX_CHANGES)
            for task in tasks[:MAX_CHANGES]:
                task.cancel()
            await asyncio.wait(tasks[:MAX_CHANGES])
            reading = asyncio.ensure_future(credits_of(engine, "V1"))
            await relay.came(MAX_CHANGES + 1)
            assert changes_of(relay) == MAX_CHANGES
            relay.let_go()
            await reading
            results = await asyncio.wait_for(asyncio.gather(*tasks[MAX_CHANGES:]), 20)
            assert [each.session.credits for each in results] == list(range(MAX_CHANGES, 2 * MAX_CHANGES))

    asyncio.run(main())


def test_calls_of_a_pipeline_take_their_turn(server: Server, relay: Relay) -> None:
    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await validate(engine, 0)
            relay.hold()
            tasks = [asyncio.ensure_future(validate(engine, at)) for at in range(6)]
            pipe = engine.pipeline().validate("V0", session=lock("cart")).validate("V0", session=lock("cart"))
            piped = asyncio.ensure_future(pipe.execute())
            await relay.came(MAX_CHANGES)
            relay.let_go()
            results: Any = await piped
            assert [each.valid for each in results] == [True, True]
            assert all(each.valid for each in await asyncio.gather(*tasks))
            assert relay.most_in_flight <= MAX_CHANGES

    asyncio.run(main())


def test_event_loops_in_threads_share_the_limit(server: Server, relay: Relay) -> None:
    engine = AsyncVoucherSessions(redis.asyncio.Redis(port=relay.port))
    relay.hold()

    async def main(thread: int) -> None:
        await asyncio.gather(*(validate(engine, at) for at in range(thread * 5, thread * 5 + 5)))

    threads = [threading.Thread(target=lambda thread=thread: asyncio.run(main(thread))) for thread in range(4)]
    for each in threads:
        each.start()
    relay.wait(lambda: changes_of(relay) >= MAX_CHANGES)
    relay.let_go()
    for each in threads:
        each.join()
    assert changes_of(relay) >= 20
    assert relay.most_in_flight <= MAX_CHANGES


def test_threads_of_a_sync_engine_share_the_limit(server: Server, relay: Relay) -> None:
    with redis.Redis(port=relay.port) as client, VoucherSessions(client) as engine:
        engine.validate("V0", session=lock("cart"))
        relay.hold()
        threads = [threading.Thread(target=validate, args=(engine, at)) for at in range(12)]
        for each in threads:
            each.start()
        relay.wait(lambda: changes_of(relay) >= MAX_CHANGES)
        engine.ping()
        relay.let_go()
        for each in threads:
            each.join()
        assert changes_of(relay) == 12
        assert relay.most_in_flight <= MAX_CHANGES


# --- The limit itself ----------------------------------------------------------------------------------------------


class Uses:
    """How many hold a key at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.all = 0

    def begin(self) -> None:
        with self._lock:
            self._now += 1
            self.all += 1
            self.most = max(self.most, self._now)

    def end(self) -> None:
        with self._lock:
            self._now -= 1


def changing(*keys: bytes) -> Call[None]:
    return Call(
        verb="validate",
        codes=("A",),
        script=scripts.VALIDATE,
        keys=list(keys),
        args=[],
        read=lambda _: None,
        changed_keys=keys,
    )


def in_threads(target: Callable[[], object], number: int = 8) -> None:
    threads = [threading.Thread(target=target) for _ in range(number)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
        assert not each.is_alive()


def test_many_tasks_of_event_loops_in_threads_all_get_their_turn() -> None:
    keys, uses = AsyncKeysInUse(), Uses()

    async def one(at: int) -> None:
        taken = [changing(b"a")] if at % 2 else [changing(b"a", b"b")]
        await keys.take(taken)
        uses.begin()
        await asyncio.sleep(0)
        uses.end()
        keys.give_back(taken)

    async def main() -> None:
        await asyncio.gather(*map(one, range(50)))

    in_threads(lambda: asyncio.run(main()), 4)
    assert (uses.all, uses.most) == (200, MAX_CHANGES)
    assert not keys._users._users
    assert not keys._users.waiting


def test_many_threads_all_get_their_turn() -> None:
    keys, uses = KeysInUse(), Uses()

    def many() -> None:
        for at in range(50):
            taken = [changing(b"a")] if at % 2 else [changing(b"a", b"b")]
            keys.take(taken)
            uses.begin()
            uses.end()
            keys.give_back(taken)

    in_threads(many)
    assert uses.all == 400
    assert uses.most <= MAX_CHANGES
    assert not keys._users._users
    assert not keys._users.waiting


def test_a_thread_waits_until_a_key_is_given_back() -> None:
    keys, uses = KeysInUse(), Uses()
    calls = [changing(b"a") for _ in range(MAX_CHANGES)]
    for each in calls:
        keys.take([each])

    def take() -> None:
        keys.take([changing(b"a")])
        uses.begin()

    thread = threading.Thread(target=take)
    thread.start()
    keys.take([changing(b"b")])
    assert uses.all == 0
    keys.give_back([calls[0]])
    until(lambda: uses.all == 1)
    thread.join()


def test_a_loop_that_was_closed_while_its_tasks_waited_does_not_hinder_others() -> None:
    keys, calls = AsyncKeysInUse(), [changing(b"a") for _ in range(MAX_CHANGES + 2)]

    async def take(number: int) -> None:
        for _ in range(number):
            await keys.take([calls.pop()])

    last = calls[-1]
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(take(MAX_CHANGES + 1), 0.01))
    keys.give_back([last])
    asyncio.run(asyncio.wait_for(take(1), 10))


def all_of(key: bytes) -> list[Call[None]]:
    """As many calls as may change a key at once."""
    return [changing(key) for _ in range(MAX_CHANGES)]


def test_a_thread_that_needs_another_key_too_lets_the_next_one_have_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_in_use, "_LOOK_SECONDS", 60)
    keys, of_a, of_b = KeysInUse(), all_of(b"a"), all_of(b"b")
    for each in (*of_a, *of_b):
        keys.take([each])
    with ThreadPoolExecutor() as threads:
        both = threads.submit(keys.take, [changing(b"a", b"b")])
        until(lambda: keys._users.waiting == 1)
        only_a = threads.submit(keys.take, [changing(b"a")])
        until(lambda: keys._users.waiting == 2)
        keys.give_back(of_a[:1])
        only_a.result(30)
        assert not both.done()
        keys.give_back(of_b + of_a)
        both.result(30)


def test_a_task_that_needs_another_key_too_lets_the_next_one_have_the_first() -> None:
    async def main() -> None:
        keys, of_a, of_b = AsyncKeysInUse(), all_of(b"a"), all_of(b"b")
        assert all(keys.take_at_once([each]) for each in (*of_a, *of_b))
        both = asyncio.ensure_future(keys.take([changing(b"a", b"b")]))
        only_a = asyncio.ensure_future(keys.take([changing(b"a")]))
        await asyncio.sleep(0)
        keys.give_back(of_a[:1])
        await asyncio.wait_for(only_a, 30)
        assert not both.done()
        keys.give_back(of_b + of_a)
        await asyncio.wait_for(both, 30)

    asyncio.run(main())


def test_a_task_that_is_cancelled_when_its_turn_has_come_passes_it_on() -> None:
    async def main() -> None:
        keys, calls = AsyncKeysInUse(), all_of(b"a")
        assert all(keys.take_at_once([each]) for each in calls)
        first, second = (asyncio.ensure_future(keys.take([changing(b"a")])) for _ in range(2))
        await asyncio.sleep(0)
        keys.give_back(calls[:1])
        first.cancel()
        await asyncio.wait_for(second, 30)
        assert first.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("keys", [KeysInUse(), AsyncKeysInUse()], ids=["threads", "tasks"])
def test_keys_that_the_parent_process_uses_are_free_in_the_child(monkeypatch: pytest.MonkeyPatch, keys: Any) -> None:
    for each in all_of(b"a"):
        assert keys._users.enter([each]) is None
    assert keys._users.enter([changing(b"a")]) == b"a"
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert keys._users.enter([changing(b"a")]) is None
