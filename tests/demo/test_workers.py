"""The worker processes and the parent's view of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from support.servers import Server

from demo.examples import a_cart
from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions.demo.carts import GIFT_CARD
from voucher_sessions.demo.checkout import Report, Status
from voucher_sessions.demo.output import Display
from voucher_sessions.demo.workers import Worker, WorkerPool, work


class Pipe:
    """Collects a worker's reports, and breaks after some of them."""

    def __init__(self, broken_after: int = 1000) -> None:
        self.reports: list[Report] = []
        self._broken_after = broken_after

    def send(self, report: Report) -> None:
        if len(self.reports) == self._broken_after:
            raise BrokenPipeError
        self.reports.append(report)


@pytest.fixture
def _gift_card_on_server(server: Server, admin: redis.Redis) -> None:
    VoucherSessions(admin, prefix="p").put_voucher(Voucher(code=GIFT_CARD, credits=25))


@pytest.mark.usefixtures("_gift_card_on_server")
def test_a_worker_reports_every_step(server: Server, admin: redis.Redis) -> None:
    carts = [a_cart(order_id="a"), a_cart(order_id="b", credits=16), a_cart(order_id="c")]
    pipe: Any = Pipe()
    work(server.url, "p", carts, pipe)
    assert [(report.cart.order_id, report.status) for report in pipe.reports] == [
        ("a", Status.REDEEMING),
        ("a", Status.REDEEMED),
        ("b", Status.USED_UP),
        ("c", Status.REDEEMING),
        ("c", Status.REDEEMED),
    ]
    assert 0 < admin.pttl("p:{GIFT-CARD}:redemption:a") <= 600_000


@pytest.mark.usefixtures("_gift_card_on_server")
def test_a_worker_ends_when_the_parent_has_ended(server: Server, admin: redis.Redis) -> None:
    pipe: Any = Pipe(broken_after=1)
    work(server.url, "p", [a_cart(), a_cart(order_id="order-2")], pipe)
    assert [report.status for report in pipe.reports] == [Status.REDEEMING]
    assert not admin.exists("p:{GIFT-CARD}:redemption:order-2")


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_worker_starts_reaches_the_parent_alone(number: signal.Signals) -> None:
    script = """if True:
        import os, signal, sys, time
        from voucher_sessions.demo import workers
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with workers._signals_deferred():
                sleeper = workers.SPAWN.Process(target=time.sleep, args=(60,))
                sleeper.start()
                os.killpg(0, int(sys.argv[1]))
                print("started")
        except KeyboardInterrupt:
            sleeper.join(1)
            print("interrupted, the worker's status is", sleeper.exitcode)
            sleeper.kill()
    """
    command = [sys.executable, "-c", script, str(int(number))]
    output = subprocess.check_output(command, start_new_session=True, text=True, timeout=60)
    assert output == "started\ninterrupted, the worker's status is None\n"


@pytest.mark.parametrize(
    ("exit_statuses", "killed", "problems"),
    [
        ([0, -9, 0], 1, []),
        ([0, 0], None, ["no worker was killed"]),
        ([0, 0], 1, ["worker 2 ended with status 0"]),
        ([1, -9], 1, ["worker 1 ended with status 1"]),
    ],
)
def test_every_worker_but_the_killed_one_must_end_with_status_0(
    exit_statuses: Sequence[int], killed: int | None, problems: list[str], shop: VoucherSessions
) -> None:
    pool = WorkerPool(shop, "memory://", "p", Display())
    for number, status in enumerate(exit_statuses):
        process: Any = SimpleNamespace(name=f"worker {number + 1}", exitcode=status)
        pipe: Any = None
        pool.workers.append(Worker(process, pipe, []))
    pool.killed = None if killed is None else pool.workers[killed]
    assert pool.check_exit_statuses().problems == problems
