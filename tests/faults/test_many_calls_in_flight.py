"""Many calls are under way on one connection when a reply in their midst is lost: each has its own right ending.

A call whose reply came has its result, the others have theirs from a repetition, or an unknown outcome; repeated
unchanged, each has had its effect once. No voucher is spent beyond its limit, no result is that of another call.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle
from typing import Any, Final

import pytest
import redis
from conftest import BlockingAsync
from support.scripted_clients import TRANSPORTS
from support.servers import Server, running

from faults.history import Op, Recorder
from faults.linearizable import check
from faults.lost_reply_trials import load_scripts
from faults.proxy import FAULTS, OUT_OF_STEP, Fault, Proxy
from faults.verb_calls import ClientKind
from voucher_sessions import (
    AsyncVoucherSessions,
    Durability,
    LimitExceeded,
    OutcomeUnknown,
    Redemption,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)

TURNS, QUANTITY = 4, 3  # of each voucher, so many redemptions are tried at once, and so many can succeed
CODES: Final = [f"V{at}" for at in range(16)]
CALLS: Final = [(code, f"{code}-{turn}") for turn in range(TURNS) for code in CODES]
ANSWERED: Final = 20  # so many calls have their replies before the fault
NOBODY_FAILS: Final = {"late", "delay"}
ALL_FAULTS: Final = (*FAULTS, *OUT_OF_STEP)
TIMEOUT, DELAY = 2.0, 0.1
Outcomes = list[Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("valkey", appendonly="yes") as server:
        yield server


@pytest.fixture
def admin(server: Server) -> Iterator[redis.Redis]:
    with server.client() as admin:
        admin.flushall()
        load_scripts(admin)
        yield admin


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.socket, delay=DELAY) as proxy:
        yield proxy


class Redemptions:
    """The calls, and their history."""

    def __init__(self, admin: redis.Redis) -> None:
        self._direct = VoucherSessions(admin)
        self.recorder = Recorder("r")
        for code in CODES:
            self.recorder.call(self._direct, "put_voucher", Voucher(code=code, quantity=QUANTITY, credits=100))
        with suppress(VoucherNotFound):  # so that the server has the script, and its replies are results
            self._direct.redeem("NO-SUCH-CODE", credits=1)

    async def in_tasks(self, engine: AsyncVoucherSessions) -> Outcomes:
        """All at once: they go out together, before the first reply comes."""
        redeem = [self.recorder.acall(engine, "redeem", code, credits=1, redemption_id=id_) for code, id_ in CALLS]
        return list(await asyncio.gather(*redeem, return_exceptions=True))

    def in_threads(self, engine: VoucherSessions) -> Outcomes:
        def redeem(call: tuple[str, str]) -> Any:
            try:
                return self.recorder.call(engine, "redeem", call[0], credits=1, redemption_id=call[1])
            except Exception as error:  # it is judged later
                return error

        with ThreadPoolExecutor(len(CALLS)) as threads:
            return list(threads.map(redeem, CALLS))

    def end_right(self, outcomes: Sequence[Any], *, unknown: bool) -> None:
        """Each outcome is its call's own; what is unknown is repeated unchanged; then all books are right."""
        for (code, id_), outcome in zip(CALLS, outcomes, strict=True):
            assert isinstance(outcome, Redemption | LimitExceeded | OutcomeUnknown), repr(outcome)
            if isinstance(outcome, Redemption):
                assert (outcome.code, outcome.id, outcome.credits) == (code, id_, 1)
            elif isinstance(outcome, OutcomeUnknown):
                assert unknown, repr(outcome)
                assert (outcome.codes, outcome.redemption_id) == ((code,), id_)
        repeat_unknown(self.recorder, self._direct)
        check(self.recorder.history)
        for code in CODES:
            assert self._direct.get_voucher(code).quantity.used == QUANTITY
            assert not self._direct.audit(code).differs


def repeat_unknown(recorder: Recorder, engine: VoucherSessions) -> None:
    unknown: list[Op] = [op for op in recorder.history if op.end is None]
    for op in unknown:
        try:
            recorder.call(engine, "redeem", op.codes[0], credits=1, redemption_id=op.args["id"])
        except LimitExceeded:
            continue


def run_in_tasks(kind: ClientKind, proxy: Proxy, calls: Redemptions, **options: Any) -> Outcomes:
    async def main() -> Outcomes:
        async with kind.client(proxy.port, TIMEOUT) as client:
            engine = AsyncVoucherSessions(client, **options)
            await engine.ping()
            try:
                return await calls.in_tasks(engine)
            finally:
                await engine.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("fault", ALL_FAULTS)
def test_calls_of_tasks_that_are_not_repeated(admin: redis.Redis, proxy: Proxy, fault: Fault, protocol: int) -> None:
    calls = Redemptions(admin)
    proxy.follow([*ANSWERED * [None], fault])
    outcomes = run_in_tasks(ClientKind("async", 0, protocol), proxy, calls)
    answered = [not isinstance(each, OutcomeUnknown) for each in outcomes]
    if fault in NOBODY_FAILS:
        assert all(answered)
    elif fault not in OUT_OF_STEP:
        # If a write fails first, replies that have arrived are not read any more; what was not written has its result.
        assert not all(answered)
    assert proxy.injected == {fault: 1}
    calls.end_right(outcomes, unknown=True)


@pytest.mark.parametrize("fault", ALL_FAULTS)
def test_calls_of_tasks_that_are_repeated_all_have_results(admin: redis.Redis, proxy: Proxy, fault: Fault) -> None:
    """Three times there is a fault in their midst."""
    calls = Redemptions(admin)
    proxy.follow(3 * [*ANSWERED * [None], fault])
    outcomes = run_in_tasks(ClientKind("async", 10, 3), proxy, calls)
    assert proxy.injected[fault] == 3
    calls.end_right(outcomes, unknown=False)


@pytest.mark.parametrize("retries", [0, 10])
@pytest.mark.parametrize("fault", ALL_FAULTS)
def test_changes_that_share_a_confirmation(admin: redis.Redis, proxy: Proxy, fault: Fault, retries: int) -> None:
    calls = Redemptions(admin)
    proxy.follow([*ANSWERED * [None], fault])
    durability = Durability(fsync=True, timeout_ms=1500)
    outcomes = run_in_tasks(ClientKind("async", retries, 3), proxy, calls, durability=durability)
    assert proxy.injected == {fault: 1}
    calls.end_right(outcomes, unknown=retries == 0)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("retries", [0, 10])
@pytest.mark.parametrize("fault", ALL_FAULTS)
def test_calls_of_threads(admin: redis.Redis, proxy: Proxy, fault: Fault, retries: int, transport: str) -> None:
    calls = Redemptions(admin)
    proxy.follow(cycle([None, None, None, fault]) if retries else [*ANSWERED * [None], *8 * [fault]])
    with ClientKind("sync", retries, 3, transport).client(proxy.port, TIMEOUT) as client:
        engine = VoucherSessions(client)
        outcomes = calls.in_threads(engine)
        engine.close()
    assert proxy.injected[fault] >= 8
    calls.end_right(outcomes, unknown=retries == 0)


# --- Pipelines -----------------------------------------------------------------------------------------------------


def piped(kind: ClientKind, proxy: Proxy, run: Callable[[Any], Any]) -> Any:
    client = kind.client(proxy.port, TIMEOUT)
    if kind.kind == "sync":
        with client:
            engine = VoucherSessions(client)
            result = run(engine)
            engine.close()
            return result
    with asyncio.Runner() as runner:
        waiting: Any = BlockingAsync(AsyncVoucherSessions(client), runner.get_loop())
        result = run(waiting)
        waiting.aclose()
        runner.run(client.aclose())
        return result


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("retries", [0, 10])
@pytest.mark.parametrize("fault", ALL_FAULTS)
def test_calls_of_a_pipeline(
    admin: redis.Redis, proxy: Proxy, fault: Fault, retries: int, kind: str, transport: str
) -> None:
    direct = VoucherSessions(admin)
    codes = [f"P{at}" for at in range(2 * ANSWERED)]
    for code in codes:
        direct.put_voucher(Voucher(code=code, quantity=1))

    def run(engine: Any) -> Any:
        engine.ping()
        proxy.follow([*ANSWERED * [None], fault])
        pipe = engine.pipeline()
        for code in codes:
            pipe.redeem(code, redemption_id=f"{code}-id")
        results = pipe.execute(raise_on_error=False)
        return engine._loop.run_until_complete(results) if kind == "async" else results

    outcomes = piped(ClientKind(kind, retries, 3, transport), proxy, run)
    assert proxy.injected == {fault: 1}
    for code, outcome in zip(codes, outcomes, strict=True):
        unknown = isinstance(outcome, OutcomeUnknown) and retries == 0
        paid = direct.redeem(code, redemption_id=f"{code}-id") if unknown else outcome
        assert (paid.code, paid.id) == (code, f"{code}-id")
        assert direct.get_voucher(code).quantity.used == 1


# --- A slow script -------------------------------------------------------------------------------------------------

SLOW_SCRIPT: Final = "local began = os.clock() while os.clock() - began < 1 do end return 'done'"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_calls_behind_a_slow_script_of_the_application_all_have_their_results(
    server: Server, admin: redis.Redis, proxy: Proxy, kind: str
) -> None:
    """It takes less than ``socket_timeout``, so nobody gets an error, also without repetitions."""
    calls = Redemptions(admin)
    with socket.socket(socket.AF_UNIX) as application:
        application.connect(server.socket)

        def slow() -> None:
            application.sendall(f"*3\r\n$4\r\nEVAL\r\n${len(SLOW_SCRIPT)}\r\n{SLOW_SCRIPT}\r\n$1\r\n0\r\n".encode())

        admin.config_set("lua-time-limit", 60_000)  # on a machine without a free core it can last longer than usual
        try:
            outcomes = behind_it(ClientKind(kind, 0, 3), proxy, calls, slow)
            assert application.recv(100) == b"$4\r\ndone\r\n"
        finally:
            admin.config_set("lua-time-limit", 5000)
    calls.end_right(outcomes, unknown=False)


def behind_it(kind: ClientKind, proxy: Proxy, calls: Redemptions, slow: Callable[[], None]) -> Outcomes:
    with ThreadPoolExecutor(1) as watcher:
        if kind.kind == "sync":
            with kind.client(proxy.port, 30) as client:
                engine = VoucherSessions(client)
                engine.ping()
                slow()
                outcomes = calls.in_threads(engine)
                engine.close()
                return outcomes

        async def main() -> Outcomes:
            async with kind.client(proxy.port, 30) as client:
                engine = AsyncVoucherSessions(client)
                await engine.ping()
                slow()
                in_flight = watcher.submit(all_in_flight, proxy)
                outcomes = await calls.in_tasks(engine)
                assert in_flight.result() == (len(CALLS), 0), "no reply came before the last call"
                await engine.aclose()
                return outcomes

        return asyncio.run(main())


def all_in_flight(proxy: Proxy) -> tuple[int, int]:
    """How many calls have come, and how many replies, when all calls are there."""
    proxy.wait_for(0, len(CALLS))
    return proxy.calls, proxy.answers
