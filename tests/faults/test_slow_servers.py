"""A server slower than the client's socket_timeout, and clients with the default settings of redis-py."""

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
from conftest import BlockingAsync
from support.servers import Server

from faults.lost_reply_trials import CLIENT_KINDS, SHORT_TIMEOUT, PreparedServer, Route, Trial
from faults.proxy import Proxy
from faults.verb_calls import VERB_CALLS, changes, generated_by, lock, verb_call
from voucher_sessions import AsyncVoucherSessions, OutcomeUnknown, VoucherSessions

CHANGING = [name for name, call in VERB_CALLS.items() if changes(call)]


@pytest.mark.parametrize("name", CHANGING)
def test_a_server_stopped_for_longer_than_the_timeout(
    name: str, prepared: list[PreparedServer], proxy_of: Callable[[Server, int], Proxy]
) -> None:
    """What was sent waits before it, while clients give up or come again, and is run when it goes on."""
    one = prepared[CHANGING.index(name) % len(prepared)]
    routes = [Route(client_kind, one, proxy_of(one.server, at)) for at, client_kind in enumerate(CLIENT_KINDS)]
    retrying = [
        route._replace(client_kind=route.client_kind._replace(retries=route.client_kind.retries * 50))
        for route in routes
    ]
    trials = [Trial(VERB_CALLS[name], route) for route in retrying]
    with ExitStack() as opened:
        threads = opened.enter_context(ThreadPoolExecutor(len(trials)))
        engines = [
            opened.enter_context(trial.client_kind.engine(trial.proxy.port, SHORT_TIMEOUT, trial.prefix))
            for trial in trials
        ]
        before = [(trial.proxy.connections, trial.proxy.calls) for trial in trials]
        os.kill(one.server.process.pid, signal.SIGSTOP)
        try:
            outcomes = [
                threads.submit(trial.call.outcome, engine) for trial, engine in zip(trials, engines, strict=True)
            ]
            for trial, (connections, calls), outcome in zip(trials, before, outcomes, strict=True):
                comes_again = 1 if trial.client_kind.retries else 0
                trial.proxy.wait_for(connections + comes_again, calls + 1)
                if not comes_again:
                    outcome.result(30)
        finally:
            os.kill(one.server.process.pid, signal.SIGCONT)
        results = [outcome.result(30) for outcome in outcomes]
    for trial, (_, calls), outcome in zip(trials, before, results, strict=True):
        trial.proxy.settle(calls + 1)
        if trial.client_kind.retries:
            trial.answered(outcome)
        else:
            trial.unanswered(outcome, ran=True)


LOCK = verb_call("validate", "A", credits=7, session=lock())
REDEEM = verb_call("redeem", "A", credits=6)
RELEASE = verb_call("release", "A", "k")


@pytest.fixture(params=["sync", "async"])
def default_client(
    request: pytest.FixtureRequest, prepared: list[PreparedServer], proxy_of: Callable[[Server, int], Proxy]
) -> Iterator[tuple[Trial, Any]]:
    """As redis-py makes it from an address alone, retries and timeouts included."""
    proxy = proxy_of(prepared[0].server, 0)
    trial = Trial(LOCK, Route(CLIENT_KINDS[0], prepared[0], proxy))
    with asyncio.Runner() as runner:
        if request.param == "sync":
            with redis.Redis("127.0.0.1", proxy.port) as client:
                yield trial, VoucherSessions(client, prefix=trial.prefix)
        else:
            waiting = redis.asyncio.Redis(host="127.0.0.1", port=proxy.port)
            yield trial, BlockingAsync(AsyncVoucherSessions(waiting, prefix=trial.prefix), runner.get_loop())
            runner.run(waiting.aclose())


def test_the_defaults_of_redis_py(default_client: tuple[Trial, Any]) -> None:
    trial, engine = default_client
    for call in (LOCK, REDEEM, RELEASE):
        calls = trial.proxy.calls
        trial.proxy.follow(["close", "reset"])
        outcome = call.outcome(engine)
        assert trial.proxy.calls == calls + 3
        trial.model.agrees(call, outcome)
        trial.check(generated_by(call, outcome))


def test_the_defaults_of_redis_py_when_every_reply_is_lost(default_client: tuple[Trial, Any]) -> None:
    """It gives up in the end; its caller takes the generated id from the error and learns all."""
    trial, engine = default_client
    trial.call = REDEEM
    trial.proxy.follow(repeat("close"))
    outcome = REDEEM.outcome(engine)
    trial.proxy.follow(())
    assert isinstance(outcome, OutcomeUnknown)
    assert engine.get_redemption("A", outcome.redemption_id).credits == 6
    trial.unanswered(outcome, ran=True)
