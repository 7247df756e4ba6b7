"""Changes that travel together are confirmed by one WAIT or WAITAOF, each with its own verdict; reads wait for none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis.asyncio
from support.servers import Server, running
from support.waiting import until

from transport.shared_engines import CODES, connections, credits_of, engine_on, fill, ids, no_retries, number_of
from transport.test_shared_connection_settings import Streaming
from voucher_sessions import (
    AsyncVoucherSessions,
    Durability,
    LimitExceeded,
    NotDurable,
    OutcomeUnknown,
    Redemption,
    VoucherSessions,
)

FSYNC = Durability(fsync=True, timeout_ms=4000)
# No replica is there, so nothing is ever confirmed.
REPLICAS = Durability(replicas=1, timeout_ms=300)


@pytest.fixture(scope="module")
def durable_server() -> Iterator[Server]:
    with running("valkey", appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def server(durable_server: Server) -> Server:
    fill(durable_server)
    with durable_server.client() as client:
        VoucherSessions(client).redeem("V99", credits=1)  # so that the server has the script
    return durable_server


def count(server: Server, command: str) -> int:
    """How often a command was run."""
    with server.client() as admin:
        stats: dict[str, Any] = admin.info("commandstats")
        return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


def blocked(server: Server) -> list[str]:
    """The connections that wait for a confirmation."""
    return ids([each for each in connections(server) if "b" in each["flags"]])


def unblock(server: Server) -> None:
    with server.client() as admin:
        for number in blocked(server):
            admin.client_unblock(int(number))


def redeem(engine: AsyncVoucherSessions, at: int, credits: int = 1) -> Any:
    return engine.redeem(CODES[at], credits=credits, redemption_id=f"order-{at}")


async def several(engine: AsyncVoucherSessions, number: int) -> list[Any]:
    return await asyncio.gather(*(redeem(engine, at) for at in range(number)), return_exceptions=True)


@pytest.mark.parametrize("number", [1, 2, 64])
def test_changes_that_travel_together_are_confirmed_by_one_waitaof(server: Server, number: int) -> None:
    async def main() -> None:
        async with engine_on(server, FSYNC) as engine:
            await engine.redeem("V99", credits=1)
            before = count(server, "waitaof")
            assert [each.id for each in await several(engine, number)] == [f"order-{at}" for at in range(number)]
            assert count(server, "waitaof") == before + 1

    asyncio.run(main())


def test_changes_that_come_while_a_confirmation_is_awaited_share_the_next(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, Durability(replicas=1, timeout_ms=4000)) as engine:
            before = count(server, "wait")
            first = asyncio.ensure_future(redeem(engine, 0))
            await asyncio.to_thread(until, lambda: len(blocked(server)) == 1)
            later = [asyncio.ensure_future(redeem(engine, at)) for at in range(1, 50)]
            await asyncio.sleep(0)
            assert not any(each.done() for each in later)
            while not all(each.done() for each in later):
                await asyncio.to_thread(unblock, server)
            assert count(server, "wait") == before + 2
            assert {type(each) for each in await asyncio.gather(first, *later, return_exceptions=True)} == {NotDurable}

    asyncio.run(main())


def test_each_caller_of_a_group_that_was_not_confirmed_gets_its_own_result(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, REPLICAS) as engine:
            too_much = redeem(engine, 98, credits=10_000)
            outcomes, refused = await asyncio.gather(
                several(engine, 20), asyncio.gather(too_much, return_exceptions=True)
            )
            assert [type(each) for each in outcomes] == [NotDurable] * 20
            results = [each.result for each in outcomes]
            assert all(isinstance(each, Redemption) for each in results)
            assert [(each.code, each.id) for each in results] == [(CODES[at], f"order-{at}") for at in range(20)]
            assert isinstance(refused[0], LimitExceeded)

    asyncio.run(main())


def test_reads_are_not_held_up_by_a_wait(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, Durability(replicas=1, timeout_ms=4000)) as engine:
            change = asyncio.ensure_future(redeem(engine, 0))
            await asyncio.to_thread(until, lambda: len(blocked(server)) == 1)
            assert await credits_of(engine, "V1") == number_of("V1")
            assert len(blocked(server)) == 1
            assert not change.done()
            assert len(connections(server)) == 2
            unblock(server)
            with pytest.raises(NotDurable, match="0 of 1 replicas"):
                await change

    asyncio.run(main())


def test_a_change_that_is_cancelled_takes_nothing_from_the_others(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, FSYNC) as engine:
            await engine.redeem("V99", credits=1)
            tasks = [asyncio.ensure_future(redeem(engine, at)) for at in range(50)]
            await asyncio.sleep(0)
            for at in range(0, 50, 7):
                tasks[at].cancel()
            outcomes: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
            for at, outcome in enumerate(outcomes):
                assert isinstance(outcome, asyncio.CancelledError) if at % 7 == 0 else outcome.id == f"order-{at}"
            with server.client() as admin:
                used = [VoucherSessions(admin).get_voucher(code).quantity.used for code in CODES[:50]]
            assert used == [0 if at % 7 == 0 else 1 for at in range(50)], "what was cancelled before it was sent"

    asyncio.run(main())


def test_a_change_that_is_cancelled_at_once_is_not_sent(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, FSYNC) as engine:
            await engine.redeem("V99", credits=1)
            before = count(server, "waitaof")
            task = asyncio.ensure_future(redeem(engine, 0))
            await asyncio.sleep(0)
            task.cancel()
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
            assert await credits_of(engine, "V0") == number_of("V0")
            assert count(server, "waitaof") == before

    asyncio.run(main())


def test_a_change_that_is_cancelled_while_it_waits_leaves_the_connection_in_step(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, Durability(replicas=1, timeout_ms=4000)) as engine:
            tasks = [asyncio.ensure_future(redeem(engine, at)) for at in range(2)]
            await asyncio.to_thread(until, lambda: len(blocked(server)) == 1)
            tasks[0].cancel()
            unblock(server)
            cancelled, waited = await asyncio.gather(*tasks, return_exceptions=True)
            assert (type(cancelled), type(waited)) == (asyncio.CancelledError, NotDurable)
            assert [(await engine.get_voucher(code)).quantity.used for code in CODES[:2]] == [1, 1]

    asyncio.run(main())


def test_a_new_token_is_used_for_changes_too(server: Server) -> None:
    with server.client() as admin:
        passwords = ["+first", "+second"]
        admin.acl_setuser("shop", enabled=True, passwords=passwords, keys="*", channels="*", commands=["+@all"])

    async def main() -> None:
        provider = Streaming()
        async with engine_on(server, FSYNC, credential_provider=provider) as engine:
            await redeem(engine, 0)
            await credits_of(engine, "V0")
            before = set(ids(connections(server)))
            await provider.renew("second")
            await redeem(engine, 1)
            await credits_of(engine, "V0")
            assert len(before) == 2
            await asyncio.to_thread(until, lambda: len(connections(server)) == 2)
            assert not before & set(ids(connections(server)))

    asyncio.run(main())


@pytest.mark.parametrize("retried", [False, True])
def test_a_group_whose_connection_is_lost_is_unknown_or_sent_again(server: Server, retried: bool) -> None:
    options: dict[str, Any] = {} if retried else {"retry": no_retries()}

    async def main() -> None:
        async with engine_on(server, Durability(replicas=1, timeout_ms=2000), **options) as engine:
            group = asyncio.ensure_future(several(engine, 20))
            await asyncio.to_thread(until, lambda: len(blocked(server)) == 1)
            with server.client() as admin:
                admin.client_kill_filter(_id=blocked(server)[0])
            outcomes = await group
            assert {type(each) for each in outcomes} == {NotDurable if retried else OutcomeUnknown}
            if retried:
                assert [each.result.id for each in outcomes] == [f"order-{at}" for at in range(20)]
            else:
                assert [each.redemption_id for each in outcomes] == [f"order-{at}" for at in range(20)]
        with server.client() as admin:
            assert [VoucherSessions(admin).get_voucher(code).quantity.used for code in CODES[:20]] == [1] * 20

    asyncio.run(main())


def test_scripts_that_the_server_does_not_have_are_loaded_within_a_group(server: Server) -> None:
    with server.client() as admin:
        admin.script_flush()

    async def main() -> None:
        async with engine_on(server, FSYNC) as engine:
            assert [each.id for each in await several(engine, 20)] == [f"order-{at}" for at in range(20)]

    asyncio.run(main())


def test_a_pipeline_and_single_changes_are_confirmed_beside_each_other(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, FSYNC) as engine:
            pipe = engine.pipeline()
            for at in range(50, 60):
                pipe.redeem(CODES[at], credits=1, redemption_id=f"order-{at}")
            piped: Any
            piped, single = await asyncio.gather(pipe.execute(), several(engine, 10))
            assert [each.id for each in [*single, *piped]] == [f"order-{at}" for at in [*range(10), *range(50, 60)]]

    asyncio.run(main())


@pytest.fixture
def two_loops(server: Server) -> Callable[[AsyncVoucherSessions], None]:
    def run(engine: AsyncVoucherSessions) -> None:
        for at in (0, 20):
            orders = asyncio.run(pay(engine, at))
            assert orders == [f"order-{number}" for number in range(at, at + 20)]

    async def pay(engine: AsyncVoucherSessions, at: int) -> list[str]:
        return [each.id for each in await asyncio.gather(*(redeem(engine, number) for number in range(at, at + 20)))]

    return run


def test_each_event_loop_has_its_own_groups(server: Server, two_loops: Callable[[AsyncVoucherSessions], None]) -> None:
    two_loops(AsyncVoucherSessions(redis.asyncio.Redis(unix_socket_path=server.socket), durability=FSYNC))


def test_changes_whose_sending_task_was_cancelled_may_have_run(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, Durability(replicas=1, timeout_ms=4000), retry=no_retries()) as engine:
            changing = asyncio.ensure_future(redeem(engine, 0))
            await asyncio.to_thread(until, lambda: len(blocked(server)) == 1)
            (group,) = [each for each in asyncio.all_tasks() if "GroupCommit" in repr(each.get_coro())]
            group.cancel()
            with pytest.raises(OutcomeUnknown):
                await changing
            unblock(server)
            assert (await engine.get_redemption("V0", "order-0")).id == "order-0"

    asyncio.run(main())
