"""The worker of examples/celery_worker: killed at every step, each order is paid once; errors survive as JSON."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import time_machine
from celery import Celery
from celery.backends.base import Backend
from celery.result import AsyncResult
from celery_worker import orders, tasks
from celery_worker.orders import Order
from documents.examples import ROOT, examples
from kombu.utils.json import dumps, loads
from support.one_of_each_error import one_of_each_error
from support.waiting import until

from voucher_sessions import (
    GiftAmountExceeded,
    QuantityExceeded,
    ServerUnavailable,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
    VoucherSessionsError,
)
from voucher_sessions._transport.keeper import started
from voucher_sessions.contrib import testing
from voucher_sessions.contrib.testing import RedisTrouble

CREDITS: Final = 30
SESSION_KEY: Final = "the key of a cart"
# How the worker of an order is killed: see killed_worker.py.
KILLED: Final = ("process-begun", "process-redeemed", "worker-begun", "worker-redeemed")


@pytest.fixture(autouse=True)
def _database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.db"))


# In this process


@pytest.fixture
def trouble() -> RedisTrouble:
    return RedisTrouble()


@pytest.fixture
def vouchers(trouble: RedisTrouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[VoucherSessions]:
    with testing.sync_engine(testing.memory_server(), trouble, {}) as engine:
        monkeypatch.setattr(tasks, "vouchers", lambda: engine)
        engine.put_voucher(Voucher(code="GIFT", credits=100))
        yield engine


def run(order: Order) -> Any:
    """The result of the order's task, which runs at once."""
    orders.place(order)
    return tasks.redeem.apply(args=(order.id,))


def test_a_task_that_is_repeated_redeems_once(vouchers: VoucherSessions) -> None:
    first = run(Order("order", "GIFT", CREDITS, SESSION_KEY))
    again: Any = tasks.redeem.apply(args=("order",))
    assert (first.result["replayed"], again.result["replayed"]) == (False, True)
    assert "session_key" not in first.result
    assert vouchers.get_voucher("GIFT").credits.used == CREDITS
    assert orders.status("order") == orders.PAID


def test_the_lock_of_the_cart_is_used(vouchers: VoucherSessions) -> None:
    vouchers.validate("GIFT", credits=100, session={"type": "LOCK", "key": SESSION_KEY})
    assert isinstance(run(Order("other", "GIFT", CREDITS)).result, GiftAmountExceeded)
    assert run(Order("mine", "GIFT", CREDITS, SESSION_KEY)).result["credits"] == CREDITS
    assert vouchers.list_sessions("GIFT") == []


@pytest.mark.parametrize("lost", [1, 5])
def test_lost_replies_are_retried(vouchers: VoucherSessions, trouble: RedisTrouble, lost: int) -> None:
    trouble.lose_replies(lost)
    assert run(Order("order", "GIFT", CREDITS)).result["replayed"]
    assert vouchers.get_voucher("GIFT").credits.used == CREDITS


def test_while_redis_is_down_nothing_is_redeemed(vouchers: VoucherSessions, trouble: RedisTrouble) -> None:
    trouble.down()
    assert isinstance(run(Order("order", "GIFT", CREDITS)).result, ServerUnavailable)
    assert orders.status("order") == orders.PENDING
    trouble.end()
    assert vouchers.get_voucher("GIFT").credits.used == 0


def test_an_order_that_does_not_exist() -> None:
    assert isinstance(tasks.redeem.apply(args=("order",)).result, LookupError)


def test_an_order_that_was_refused_stays_so(vouchers: VoucherSessions) -> None:
    """Even if the voucher could pay it later: the customer has seen the refusal."""
    assert isinstance(run(Order("order", "GIFT", 101)).result, GiftAmountExceeded)
    assert orders.status("order") == orders.REFUSED
    vouchers.put_voucher(Voucher(code="GIFT", credits=200))
    assert isinstance(tasks.redeem.apply(args=("order",)).result, LookupError)
    assert vouchers.get_voucher("GIFT").credits.used == 0


def test_pending_orders_are_queued_again(vouchers: VoucherSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[str] = []
    monkeypatch.setattr(tasks.redeem, "delay", queued.append)
    with time_machine.travel("2026-11-21T12:00:00+00:00", tick=False) as clock:
        run(Order("paid", "GIFT", CREDITS))
        orders.place(Order("old", "GIFT", CREDITS))
        clock.shift(60)
        orders.place(Order("new", "GIFT", CREDITS))
        tasks.queue_pending.apply()
    assert queued == ["old"]


def test_every_error_crosses_the_json_backend() -> None:
    """With its text and its facts."""
    backend = Backend(tasks.app)
    for error in one_of_each_error():
        stored = loads(dumps(backend.prepare_exception(error, "json")))
        restored = backend.exception_to_python(stored)
        assert type(restored) is type(error)
        assert (str(restored), json.dumps(restored.args)) == (str(error), json.dumps(error.args))


def test_a_process_that_reads_results_must_have_imported_the_errors() -> None:
    """As docs/celery.md says: otherwise Celery makes up a class of the same name."""
    backend = Backend(tasks.app)
    stored = dumps(backend.prepare_exception(VoucherNotFound("NONE"), "json"))
    read = "from celery import Celery; from celery.backends.base import Backend; from kombu.utils.json import loads"
    show = f"print(type(Backend(Celery()).exception_to_python(loads({stored!r}))).__module__)"
    for imported, module in (
        ("", "celery.exceptions"),
        ("voucher_sessions.VoucherSessionsError", "voucher_sessions.errors"),
    ):
        code = f"import voucher_sessions; {imported}\n{read}\n{show}"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == module


@pytest.mark.long
def test_the_test_that_the_page_shows(pytester: pytest.Pytester) -> None:
    page = [block[0].parsed for path, block in examples() if path == ROOT / "docs" / "celery.md"]
    pytester.makepyfile(page[-1])
    plugins = ("-p", "no:voucher_sessions", "-p", "voucher_sessions.contrib.pytest_plugin", "-p", "no:asyncio")
    pytester.runpytest_subprocess("-W", "error", *plugins).assert_outcomes(passed=1)


# A real worker


class Shop:
    """A worker of its own, which is started again when it was killed."""

    def __init__(self, url: str, broker: str, folder: Path) -> None:
        self.client = Celery("client", broker=broker, backend=broker)
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CELERY_BROKER_URL": broker,
            "VOUCHER_SESSIONS_URL": url,
            "KILLS": str(folder),
        }
        self.log = folder / "log"
        self.workers: list[subprocess.Popen[bytes]] = []

    def queue(self, placed: Sequence[Order]) -> list[AsyncResult[Any]]:
        """The results to come of the orders' tasks."""
        for order in placed:
            orders.place(order)
        return [self.client.send_task("celery_worker.tasks.redeem", args=(order.id,)) for order in placed]

    def pay(self, placed: Sequence[Order]) -> dict[str, bool]:
        """For each order, whether the task that has ended was a repeated one."""
        results = self.queue(placed)
        self.work(lambda: all(result.ready() for result in results))
        return {order.id: result.get(timeout=20)["replayed"] for order, result in zip(placed, results, strict=True)}

    def start_worker(self, concurrency: int) -> None:
        options = ["--concurrency", str(concurrency), "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
        command = [sys.executable, "-m", "celery", "--app", "examples.killed_worker", "worker", *options]
        with self.log.open("ab") as output:
            self.workers.append(started(command, env=self._environment, output=output))

    def work(self, is_done: Callable[[], bool], concurrency: int = 1) -> None:
        """Work until that is reached. A new worker comes after the time for which a task of the old one is invisible."""
        self.start_worker(concurrency)

        def is_done_or_killed() -> bool:
            if self.workers[-1].poll() is not None:
                time.sleep(1.5)
                self.start_worker(concurrency)
            return is_done()

        try:
            until(is_done_or_killed, 100 * concurrency)
        except BaseException:
            print(self.log.read_text())
            raise

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait(60)
        self.client.close()


@pytest.fixture
def server() -> Iterator[redis.Redis]:
    """A client of an embedded server."""
    with VoucherSessions.from_url("embedded://") as engine:
        client = engine.client
        assert isinstance(client, redis.Redis)
        yield client


@pytest.fixture
def vouchers_of_shop(server: redis.Redis) -> VoucherSessions:
    """With a gift card that could pay some orders twice."""
    vouchers = VoucherSessions(server)
    vouchers.put_voucher(Voucher(code="GIFT", credits=10_000))
    return vouchers


@pytest.fixture
def shop(server: redis.Redis, tmp_path: Path) -> Iterator[Shop]:
    path = server.get_connection_kwargs()["path"]
    shop = Shop(f"unix://{path}", f"redis+socket://{path}?virtual_host=1", tmp_path)
    yield shop
    shop.stop()


@pytest.mark.parametrize(
    "step",
    [
        "redeemed",  # and the task is not acknowledged yet
        pytest.param("begun", marks=pytest.mark.long),
    ],
)
def test_workers_are_killed_and_each_order_is_paid_once(
    shop: Shop, vouchers_of_shop: VoucherSessions, step: str
) -> None:
    ids = ["1", f"2-process-{step}", f"3-worker-{step}", "4-reply-lost", "5"]
    replayed = shop.pay([Order(id, "GIFT", CREDITS, SESSION_KEY) for id in ids])
    assert replayed == {id: id.endswith(("redeemed", "lost")) for id in ids}
    assert_paid_once(vouchers_of_shop, ids)
    assert len(shop.workers) == 2  # the first one was killed
    assert SESSION_KEY not in shop.log.read_text()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_many_workers_are_killed_while_others_are_in_a_task(shop: Shop, vouchers_of_shop: VoucherSessions) -> None:
    """Celery loses some of these tasks, so pending orders are queued again and again, as beat does it."""
    chance = random.Random(7)
    ids = [f"{number}-{chance.choice((*KILLED, 'reply-lost', 'nothing'))}" for number in range(40)]
    shop.queue([Order(id, "GIFT", CREDITS) for id in ids])
    queued_at = time.monotonic()

    def are_paid() -> bool:
        nonlocal queued_at
        if time.monotonic() > queued_at + 5:
            queued_at = time.monotonic()
            shop.client.send_task("celery_worker.tasks.queue_pending", args=(0,), ignore_result=True)
        return orders.pending(0) == []

    shop.work(are_paid, concurrency=4)
    assert_paid_once(vouchers_of_shop, ids)
    assert len(shop.workers) > 5


def assert_paid_once(vouchers: VoucherSessions, ids: Sequence[str]) -> None:
    state = vouchers.get_voucher("GIFT")
    assert (state.quantity.used, state.credits.used) == (len(ids), CREDITS * len(ids))
    assert {vouchers.get_redemption("GIFT", id).credits for id in ids} == {CREDITS}
    assert {orders.status(id) for id in ids} == {orders.PAID}


def test_errors_reach_the_process_that_reads_the_result(shop: Shop, vouchers_of_shop: VoucherSessions) -> None:
    vouchers = vouchers_of_shop
    vouchers.put_voucher(Voucher(code="ONCE", quantity=1))
    vouchers.put_voucher(Voucher(code="GIFT", credits=10))  # there were more
    vouchers.validate("ONCE", session={"type": "LOCK", "key": SESSION_KEY, "ttl": 1, "ttl_unit": "HOURS"})
    results = shop.queue([Order("1", "ONCE", 0), Order("2", "GIFT", CREDITS), Order("3", "NONE", 0)])
    shop.work(lambda: all(result.ready() for result in results))
    locked, too_little, missing = (raised_by(result) for result in results)
    assert isinstance(locked, QuantityExceeded)
    assert isinstance(too_little, GiftAmountExceeded)
    assert locked.locked_by_others
    assert 3_000_000 < (locked.retry_after_ms or 0) <= 3_600_000
    assert (too_little.requested, too_little.available) == (CREDITS, 10)
    assert (type(missing), str(missing)) == (VoucherNotFound, str(VoucherNotFound("NONE")))


def raised_by(result: AsyncResult[Any]) -> VoucherSessionsError:
    with pytest.raises(VoucherSessionsError) as caught:
        result.get(timeout=20)
    return caught.value
