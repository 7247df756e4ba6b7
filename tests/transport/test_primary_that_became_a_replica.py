"""With Sentinel, a server that is no primary any more is not asked again: a call waits for the next primary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cluster.topology import HOST
from conftest import BlockingAsync
from support.servers import free_port
from support.waiting import until

from transport.two_primaries import OneSentinel, refusals_of, running_one_sentinel
from voucher_sessions import AsyncVoucherSessions, Voucher, VoucherSessions


@pytest.fixture(scope="module")
def sentinel() -> Iterator[OneSentinel]:
    with running_one_sentinel() as sentinel:
        yield sentinel


@pytest.fixture(params=["sync", "async"])
def engine(request: pytest.FixtureRequest, sentinel: OneSentinel, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    if request.param == "sync":
        with VoucherSessions.from_url(sentinel.url) as engine:
            yield engine
        return

    async def opened() -> AsyncVoucherSessions:
        return AsyncVoucherSessions.from_url(sentinel.url)

    blocking = BlockingAsync(loop.run_until_complete(opened()), loop)
    yield blocking
    blocking.aclose()


@pytest.mark.parametrize("in_a_pipeline", [False, True])
def test_a_change_is_sent_again_until_there_is_a_primary(
    sentinel: OneSentinel, engine: Any, execute: Callable[..., list[Any]], in_a_pipeline: bool
) -> None:
    sentinel.server.ask("FLUSHALL")
    engine.put_voucher(Voucher(code="A", quantity=10))
    engine.redeem("A")
    server = sentinel.server
    refused = refusals_of(server, "READONLY")

    def come_back() -> None:
        until(lambda: refusals_of(server, "READONLY") > refused)
        server.ask("REPLICAOF", "NO", "ONE")

    server.ask("REPLICAOF", HOST, free_port())
    with ThreadPoolExecutor() as threads:
        coming_back = threads.submit(come_back)
        if in_a_pipeline:
            (redemption,) = execute(engine.pipeline().redeem("A", redemption_id="order"))
        else:
            redemption = engine.redeem("A", redemption_id="order")
        assert not redemption.replayed
        coming_back.result()
    assert engine.get_voucher("A").quantity.used == 2
