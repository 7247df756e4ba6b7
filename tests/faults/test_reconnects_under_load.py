"""Servers restart, connections are closed and primaries are replaced while many calls are under way: nobody gets an error.

The engines are made by ``from_url`` with its defaults. Each redemption takes effect once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from cluster.topology import running_sentinels
from support import tls
from support.servers import BINARIES, free_port, running
from support.waiting import until

from voucher_sessions import AsyncVoucherSessions, Durability, Voucher, VoucherSessions

CALLERS, ROUNDS, CALLS = 16, 3, 300
CODES: Final = [f"V{at}" for at in range(8)]
KINDS: Final = ["threads", "tasks"]


class Load:
    """Callers of one engine that redeem until they are stopped. What one of them raises, ``end`` raises."""

    def __init__(self, kind: str, url: str, options: dict[str, Any]) -> None:
        self._url, self._options = url, options
        self._over = threading.Event()
        self._done = [0] * CALLERS
        self._threads = ThreadPoolExecutor(CALLERS + 1)
        run = self._in_threads if kind == "threads" else lambda: asyncio.run(self._in_tasks())
        self._running = self._threads.submit(run)

    def _in_threads(self) -> None:
        with VoucherSessions.from_url(self._url, **self._options) as engine:
            for work in [self._threads.submit(self._work, engine, at) for at in range(CALLERS)]:
                work.result()

    def _work(self, engine: VoucherSessions, me: int) -> None:
        for at in count():
            if self._over.is_set():
                return
            code, id_ = CODES[(me + at) % len(CODES)], f"{me}-{at}"
            paid = engine.redeem(code, credits=1, redemption_id=id_)
            assert (paid.code, paid.id, paid.credits, paid.replayed) == (code, id_, 1, False)
            assert engine.get_voucher(code).code == code
            self._done[me] += 1

    async def _in_tasks(self) -> None:
        async with AsyncVoucherSessions.from_url(self._url, **self._options) as engine, asyncio.TaskGroup() as tasks:
            for me in range(CALLERS):
                tasks.create_task(self._work_async(engine, me))

    async def _work_async(self, engine: AsyncVoucherSessions, me: int) -> None:
        for at in count():
            if self._over.is_set():
                return
            code, id_ = CODES[(me + at) % len(CODES)], f"{me}-{at}"
            paid = await engine.redeem(code, credits=1, redemption_id=id_)
            assert (paid.code, paid.id, paid.credits, paid.replayed) == (code, id_, 1, False)
            assert (await engine.get_voucher(code)).code == code
            self._done[me] += 1

    def wait_for_calls(self) -> None:
        """Until each caller has made some more, or one has failed."""
        before = list(self._done)
        enough = CALLS // CALLERS
        until(
            lambda: (
                self._running.done() or all(now >= then + enough for now, then in zip(self._done, before, strict=True))
            )
        )
        if self._running.done():
            self._running.result()

    def end(self) -> int:
        """How many redemptions were made."""
        self._over.set()
        self._running.result(60)
        self._threads.shutdown()
        return sum(self._done)


def put_vouchers(engine: VoucherSessions) -> None:
    for code in CODES:
        engine.put_voucher(Voucher(code=code, quantity=None, credits=10**6))


def redeemed(engine: VoucherSessions) -> int:
    assert not any(engine.audit(code).differs for code in CODES)
    return sum(engine.get_voucher(code).credits.used for code in CODES)


@contextmanager
def load(kind: str, url: str, **options: Any) -> Iterator[Load]:
    running_load = Load(kind, url, options)
    try:
        running_load.wait_for_calls()
        yield running_load
    finally:
        running_load._over.set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(BINARIES))
def test_a_server_restarts(name: str, kind: str) -> None:
    """It is killed, and has all that it has acknowledged in its append-only file."""
    with running(name, appendonly="yes", appendfsync="always") as server:
        with VoucherSessions.from_url(server.url) as engine:
            put_vouchers(engine)
        with load(kind, server.url) as callers:
            for _ in range(ROUNDS):
                server.kill()
                server.start()
                callers.wait_for_calls()
            done = callers.end()
        with VoucherSessions.from_url(server.url) as engine:
            assert redeemed(engine) == done


@pytest.mark.parametrize("kind", KINDS)
def test_all_connections_are_closed(kind: str) -> None:
    with running("valkey") as server:
        closed_again_and_again(kind, server.url, server.client)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", tls.SERVERS)
def test_all_connections_with_tls_are_closed(name: str, kind: str, tmp_path: Path) -> None:
    port = free_port()
    with tls.tls_server(name, tmp_path, port) as files:
        url = (
            f"rediss://127.0.0.1:{port}?ssl_ca_certs={files.authority}"
            f"&ssl_certfile={files.client_certificate}&ssl_keyfile={files.client_key}"
        )
        closed_again_and_again(kind, url, lambda: redis.Redis.from_url(url))


def closed_again_and_again(kind: str, url: str, client: Callable[[], redis.Redis]) -> None:
    with client() as admin, VoucherSessions.from_url(url) as engine:
        put_vouchers(engine)
        with load(kind, url) as callers:
            for _ in range(ROUNDS):
                assert admin.client_kill_filter(_type="normal", skipme=True) > 0
                callers.wait_for_calls()
            done = callers.end()
        assert redeemed(engine) == done


@pytest.mark.parametrize("kind", KINDS)
def test_sentinels_replace_a_primary_that_was_killed(kind: str) -> None:
    """A replica has each change that was acknowledged, so none is lost or made twice."""
    durability = Durability(replicas=1, timeout_ms=15_000)
    with running_sentinels("valkey", down_after_ms=600) as sentinels:
        options: dict[str, Any] = {"durability": durability, "socket_timeout": 20}
        with VoucherSessions.from_url(sentinels.url, **options) as engine:
            put_vouchers(engine)
        with load(kind, sentinels.url, **options) as callers:
            primary = sentinels.primary()
            primary.kill()
            until(lambda: sentinels.primary() is not primary)
            callers.wait_for_calls()
            done = callers.end()
        with VoucherSessions.from_url(sentinels.url) as engine:
            assert redeemed(engine) == done
