"""examples/health: while its server is down the shop is not ready and grants nothing, and it recovers by itself."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count

import pytest
from health.shop import Shop
from support.servers import Server, running
from support.waiting import until

from voucher_sessions import Voucher, VoucherSessions

CALLERS = 4
LIMIT = 1_000_000


class Load:
    """Customers who lock the voucher, each cart once. ``statuses`` has what each got."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._over = threading.Event()
        self.statuses: list[int] = []
        self._threads = [threading.Thread(target=self._run, args=(at,)) for at in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _run(self, me: int) -> None:
        for at in count():
            if self._over.is_set():
                return
            self.statuses.append(self._shop.lock("SALE", f"cart-{me}-{at}")[0])

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def killed(server: Server) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Its connections stay, and nothing answers."""
    server.process.send_signal(signal.SIGSTOP)
    yield
    server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("failure", [killed, stopped])
def test_a_server_that_is_down(failure: Callable[[Server], AbstractContextManager[None]]) -> None:
    with (
        running("valkey", appendonly="yes", appendfsync="always") as server,
        Shop(server.url) as shop,
        VoucherSessions.from_url(server.url) as engine,
    ):
        engine.put_voucher(Voucher(code="SALE", quantity=LIMIT))
        assert shop.ready() == (200, {"ready": True})
        load = Load(shop)
        try:
            until(lambda: load.statuses.count(200) > 20)
            with failure(server):
                begun = time.monotonic()
                until(lambda: shop.ready()[0] == 503)
                assert time.monotonic() - begun < 5  # the timeout is half a second; the machine may be busy
                before = len(load.statuses)
                until(lambda: len(load.statuses) >= before + 2 * CALLERS)
                # Each caller can still note one answer that it got before.
                assert set(load.statuses[before + CALLERS :]) == {503}
            until(lambda: shop.ready()[0] == 200)
            granted = load.statuses.count(200)
            until(lambda: load.statuses.count(200) > granted + 20)
        finally:
            load.end()
        granted = load.statuses.count(200)
        assert set(load.statuses) == {200, 503}
        # Each cart that got this answer has its lock. A cart that got no answer may have one, too.
        locked = engine.get_voucher("SALE").quantity.locked
        assert granted <= locked <= granted + load.statuses.count(503)


def test_the_last_voucher_is_for_one_cart_and_a_wrong_password_is_not_ready() -> None:
    with running("valkey") as server:
        with Shop(server.url) as shop, VoucherSessions.from_url(server.url) as engine:
            engine.put_voucher(Voucher(code="LAST", quantity=1))
            assert shop.lock("LAST", "mine") == (200, {"granted": True, "reason": None})
            assert shop.lock("LAST", "other") == (200, {"granted": False, "reason": "quantity_exceeded"})
            engine.client.config_set("requirepass", "secret")
        with Shop(server.url) as shop:
            assert shop.ready()[0] == 503
            assert shop.lock("LAST", "mine")[0] == 503
            assert shop.lock("", "mine")[0] == 400
