"""The shop of examples/sql_agreement: wherever it is killed, orders and vouchers agree after ``pay_pending``."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from sql_agreement.shop import PAID, PENDING, REFUSED, Order, pay, pay_pending, place_order, redemptions
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from support.servers import Server
from support.sessions import lock

from examples.killed_shop import Killed, checkout, ends_at, unwatch, watch
from voucher_sessions import ServerUnavailable, Voucher, VoucherSessions
from voucher_sessions.bulk import reconcile

NOW = timedelta(0)


@pytest.fixture
def vouchers() -> Iterator[VoucherSessions]:
    """An engine with a gift card of 100 credits, of which a cart has locked 30."""
    with fakeredis.FakeRedis() as client, VoucherSessions(client) as vouchers:
        prepare(vouchers)
        yield vouchers


def prepare(vouchers: VoucherSessions) -> None:
    vouchers.put_voucher(Voucher(code="GIFT", credits=100))
    vouchers.validate("GIFT", credits=30, session=lock("cart"))


def statuses(database: Engine) -> dict[str, str]:
    with Session(database) as transaction:
        return {order.id: order.status for order in transaction.scalars(select(Order))}


def assert_agreement(database: Engine, vouchers: VoucherSessions) -> None:
    """Nothing is pending, and what was paid is what was redeemed."""
    assert PENDING not in statuses(database).values()
    rows = list(redemptions(database))
    assert not list(reconcile(vouchers, rows))
    assert vouchers.get_voucher("GIFT").credits.used == sum(row["credits"] for row in rows)


@pytest.mark.parametrize("session_key", [None, "cart"])
def test_a_checkout(database: Engine, vouchers: VoucherSessions, session_key: str | None) -> None:
    checkout(database, vouchers, "order", session_key)
    assert statuses(database) == {"order": PAID}
    assert pay_pending(database, vouchers, older_than=NOW) == 0
    assert_agreement(database, vouchers)
    assert vouchers.get_voucher("GIFT").credits.locked == (0 if session_key else 30)


@pytest.mark.parametrize("session_key", [None, "cart"])
def test_killed_at_every_step(database: Engine, vouchers: VoucherSessions, session_key: str | None) -> None:
    """Each order is killed one step later than the one before. Each is paid once, or was never placed."""
    vouchers.put_voucher(Voucher(code="GIFT", credits=10_000))
    step, was_killed, seen = 0, True, set()
    while was_killed:
        order_id = f"order-{step}"
        reached = ends_at(step, raise_killed)
        watch(database, vouchers, reached)
        try:
            checkout(database, vouchers, order_id, session_key)
            was_killed = False
        except Killed:
            pass
        finally:
            unwatch(database, vouchers, reached)
        redeemed = any(each.kind == "no_row" for each in reconcile(vouchers, redemptions(database)))
        seen.add((statuses(database).get(order_id), redeemed))
        pay_pending(database, vouchers, older_than=NOW)
        assert statuses(database).get(order_id, PAID) == PAID
        assert_agreement(database, vouchers)
        step += 1
    assert seen == {(None, False), (PENDING, False), (PENDING, True), (PAID, False)}
    assert step > 10


def raise_killed() -> None:
    raise Killed


def test_killed_while_pending_orders_are_paid(database: Engine, vouchers: VoucherSessions) -> None:
    place_order(database, "order", "GIFT", credits=30, session_key="cart")
    for step in range(30):
        reached = ends_at(step, raise_killed)
        watch(database, vouchers, reached)
        with suppress(Killed):
            pay_pending(database, vouchers, older_than=NOW)
        unwatch(database, vouchers, reached)
        if statuses(database) == {"order": PAID}:
            break
    assert step > 5
    assert_agreement(database, vouchers)
    assert vouchers.get_voucher("GIFT").credits.used == 30


def test_killed_by_the_system(database: Engine, database_url: str, server_of: Callable[[str], Server]) -> None:
    """SIGKILL just after the redemption: no handler runs, no transaction is rolled back by the process itself."""
    server = server_of("valkey")
    with server.client() as client, VoucherSessions(client) as vouchers:
        client.flushall()
        prepare(vouchers)
        steps: list[str] = []
        spy = spy_on(vouchers, steps)
        watch(database, vouchers, spy)
        checkout(database, vouchers, "other", None)
        unwatch(database, vouchers, spy)
        after_redeem = steps.index("redeemed")
        program = Path(__file__).with_name("killed_shop.py")
        command = [sys.executable, str(program), database_url, server.url, str(after_redeem)]
        ended = subprocess.run(command, check=False, timeout=60, env={"PYTHONPATH": ":".join(sys.path)})
        assert ended.returncode == -signal.SIGKILL
        assert statuses(database) == {"other": PAID, "order": PENDING}
        assert vouchers.get_redemption("GIFT", "order").credits == 30
        assert pay_pending(database, vouchers, older_than=NOW) == 1
        assert_agreement(database, vouchers)


def spy_on(vouchers: VoucherSessions, steps: list[str]) -> Callable[..., None]:
    """Records the steps; the first one after "GIFT" has a receipt is "redeemed"."""

    def reached(*_: object) -> None:
        used = vouchers.get_voucher("GIFT").credits.used
        steps.append("redeemed" if used and "redeemed" not in steps else "step")

    return reached


def test_what_does_not_fit_is_refused_for_good(database: Engine, vouchers: VoucherSessions) -> None:
    place_order(database, "order", "GIFT", credits=71)
    place_order(database, "unknown", "NONE", credits=1)
    for order_id in ("order", "unknown"):
        assert pay(database, vouchers, order_id) == REFUSED
    vouchers.release("GIFT", "cart")
    assert pay(database, vouchers, "order") == REFUSED
    assert_agreement(database, vouchers)


def test_an_expired_session_does_not_refuse_the_order(database: Engine, vouchers: VoucherSessions) -> None:
    place_order(database, "order", "GIFT", credits=30, session_key="expired")
    assert pay(database, vouchers, "order") == PAID
    assert_agreement(database, vouchers)


def test_while_redis_is_down_orders_stay_pending(database: Engine, vouchers: VoucherSessions) -> None:
    place_order(database, "order", "GIFT", credits=30, session_key="cart")
    with VoucherSessions.from_url("redis://127.0.0.1:1", retry=None) as down, pytest.raises(ServerUnavailable):
        pay_pending(database, down, older_than=NOW)
    assert statuses(database) == {"order": PENDING}
    pay_pending(database, vouchers, older_than=NOW)
    assert_agreement(database, vouchers)


def test_only_old_orders_are_done_again(database: Engine, vouchers: VoucherSessions) -> None:
    place_order(database, "order", "GIFT", credits=30)
    assert pay_pending(database, vouchers) == 0
    assert statuses(database) == {"order": PENDING}


def test_two_processes_do_not_pay_one_order_together(database: Engine, vouchers: VoucherSessions) -> None:
    """While one is in Redis, the other waits for the order, and then finds it paid."""
    place_order(database, "order", "GIFT", credits=30, session_key="cart")
    calls: list[str] = []
    others: list[threading.Thread] = []
    redeem = vouchers.redeem

    def watched(*args: Any, **options: Any) -> Any:
        calls.append(options["redemption_id"])
        if len(calls) == 1:
            others.append(threading.Thread(target=pay, args=(database, vouchers, "order")))
            others[0].start()
            others[0].join(0.2)
            assert others[0].is_alive()
        return redeem(*args, **options)

    vars(vouchers)["redeem"] = watched
    assert pay(database, vouchers, "order") == PAID
    others[0].join()
    assert calls == ["order"]
    assert_agreement(database, vouchers)
