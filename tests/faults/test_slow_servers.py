"""A server slower than the client's socket_timeout, and clients as redis-py makes them by default."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from typing import Any

import pytest
import redis
import redis.asyncio
from conftest import Awaited
from support.servers import Server

from faults.kinds_of_caller import ACTS, act, changes, lock, made_anew
from faults.lost_reply_trials import BRIEF, CALLERS, Begun, Place, Trial
from faults.proxy import Proxy
from voucher_sessions import AsyncVoucherSessions, OutcomeUnknown, VoucherSessions

CHANGING = [name for name, made in ACTS.items() if changes(made)]


@pytest.mark.parametrize("name", CHANGING)
def test_a_server_that_stands_still_for_longer_than_the_timeout(
    name: str, begun: list[Begun], proxy_of: Callable[[Server, int], Proxy]
) -> None:
    """What was sent waits before it, while clients give up or come again, and is run when it goes on."""
    one = begun[CHANGING.index(name) % len(begun)]
    places = [Place(caller, one, proxy_of(one.server, at)) for at, caller in enumerate(CALLERS)]
    patient = [place._replace(caller=place.caller._replace(retries=place.caller.retries * 50)) for place in places]
    trials = [Trial(ACTS[name], place) for place in patient]
    with ExitStack() as opened:
        threads = opened.enter_context(ThreadPoolExecutor(len(trials)))
        engines = [opened.enter_context(trial.caller.engine(trial.proxy.port, BRIEF, trial.prefix)) for trial in trials]
        before = [(trial.proxy.connections, trial.proxy.calls) for trial in trials]
        os.kill(one.server.process.pid, signal.SIGSTOP)
        try:
            outcomes = [
                threads.submit(trial.made.outcome, engine) for trial, engine in zip(trials, engines, strict=True)
            ]
            for trial, (connections, calls), outcome in zip(trials, before, outcomes, strict=True):
                comes_again = 1 if trial.caller.retries else 0
                trial.proxy.wait_for(connections + comes_again, calls + 1)
                if not comes_again:
                    outcome.result(30)
        finally:
            os.kill(one.server.process.pid, signal.SIGCONT)
        told = [outcome.result(30) for outcome in outcomes]
    for trial, (_, calls), outcome in zip(trials, before, told, strict=True):
        trial.proxy.settle(calls + 1)
        if trial.caller.retries:
            trial.answered(outcome)
        else:
            trial.unanswered(outcome, ran=True)


LOCK = act("validate", "A", credits=7, session=lock())
PAY = act("redeem", "A", credits=6)
DROP = act("release", "A", "k")


@pytest.fixture(params=["sync", "async"])
def default_client(
    request: pytest.FixtureRequest, begun: list[Begun], proxy_of: Callable[[Server, int], Proxy]
) -> Iterator[tuple[Trial, Any]]:
    """As redis-py makes it from an address alone, retries and timeouts included."""
    proxy = proxy_of(begun[0].server, 0)
    trial = Trial(LOCK, Place(CALLERS[0], begun[0], proxy))
    with asyncio.Runner() as runner:
        if request.param == "sync":
            with redis.Redis("127.0.0.1", proxy.port) as client:
                yield trial, VoucherSessions(client, prefix=trial.prefix)
        else:
            waiting = redis.asyncio.Redis(host="127.0.0.1", port=proxy.port)
            yield trial, Awaited(AsyncVoucherSessions(waiting, prefix=trial.prefix), runner.get_loop())
            runner.run(waiting.aclose())


def test_redis_pys_own_defaults(default_client: tuple[Trial, Any]) -> None:
    trial, engine = default_client
    for made in (LOCK, PAY, DROP):
        calls = trial.proxy.calls
        trial.proxy.follow(["close", "reset"])
        outcome = made.outcome(engine)
        assert trial.proxy.calls == calls + 3
        trial.model.agrees(made, outcome)
        trial.check(made_anew(made, outcome))


def test_redis_pys_own_defaults_when_every_reply_is_lost(default_client: tuple[Trial, Any]) -> None:
    """It gives up in the end; its caller takes the generated id from the error and learns all."""
    trial, engine = default_client
    trial.made = PAY
    trial.proxy.follow(repeat("close"))
    outcome = PAY.outcome(engine)
    trial.proxy.follow(())
    assert isinstance(outcome, OutcomeUnknown)
    assert engine.get_redemption("A", outcome.redemption_id).credits == 6
    trial.unanswered(outcome, ran=True)
