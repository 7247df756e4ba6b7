"""The shop of examples/sql_agreement: wherever it is killed, orders and vouchers agree after ``pay_pending``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
from sql_agreement.shop import (
    PAID,
    PENDING,
    REFUSED,
    ROLLED_BACK,
    Order,
    pay,
    pay_pending,
    place_order,
    redemptions,
    roll_back,
)
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from support.servers import Server
from support.sessions import lock

from examples.killed_shop import NOW, KilledShop, running_shop
from voucher_sessions import (
    CorruptState,
    InvalidRequest,
    NotDurable,
    OutcomeUnknown,
    RedemptionConflict,
    RedemptionNotFound,
    ServerRefused,
    ServerUnavailable,
    UnknownFormat,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)
from voucher_sessions.bulk import import_redemptions, reconcile

pytestmark = pytest.mark.unmeasured


@pytest.fixture
def vouchers() -> Iterator[VoucherSessions]:
    """An engine with a gift card of 100 credits, of which a cart has locked 30."""
    with fakeredis.FakeRedis() as client, VoucherSessions(client) as vouchers:
        prepare(vouchers)
        yield vouchers


def prepare(vouchers: VoucherSessions) -> None:
    vouchers.put_voucher(Voucher(code="GIFT", credits=100))
    vouchers.validate("GIFT", credits=30, session=lock("cart"))


@pytest.fixture
def on_valkey(server_of: Callable[[str], Server]) -> Iterator[VoucherSessions]:
    """The same engine with a real server, to which other processes can connect."""
    with server_of("valkey").client() as client, VoucherSessions(client) as vouchers:
        client.flushall()
        prepare(vouchers)
        vouchers.put_voucher(Voucher(code="GIFT", credits=10_000))
        yield vouchers


@pytest.fixture
def killed_shop(database_url: str, server_of: Callable[[str], Server]) -> Iterator[KilledShop]:
    with running_shop(database_url, server_of("valkey").url) as shop:
        yield shop


def statuses(database: Engine) -> dict[str, str]:
    with Session(database) as transaction:
        return {order.id: order.status for order in transaction.scalars(select(Order))}


def differences(database: Engine, vouchers: VoucherSessions) -> set[tuple[str, str]]:
    return {(each.id, each.kind) for each in reconcile(vouchers, redemptions(database))}


def assert_agreement(database: Engine, vouchers: VoucherSessions) -> None:
    """Nothing is pending, and what was paid is what was redeemed."""
    assert PENDING not in statuses(database).values()
    assert not differences(database, vouchers)
    rows = list(redemptions(database))
    assert vouchers.get_voucher("GIFT").credits.used == sum(row["credits"] for row in rows if not row["rolled_back"])


@pytest.mark.parametrize("session_key", [None, "cart"])
def test_a_checkout(database: Engine, vouchers: VoucherSessions, session_key: str | None) -> None:
    place_order(database, "order", "GIFT", credits=30, session_key=session_key)
    assert pay(database, vouchers, "order") == PAID
    assert pay_pending(database, vouchers, older_than=NOW) == 0
    assert_agreement(database, vouchers)
    assert vouchers.get_voucher("GIFT").credits.locked == (0 if session_key else 30)


# Killed processes


@pytest.mark.parametrize("session_key", [None, "cart"])
def test_killed_at_every_step(
    database: Engine, on_valkey: VoucherSessions, killed_shop: KilledShop, session_key: str | None
) -> None:
    """Each order is killed one step later than the one before. Each is paid once, or was never placed."""
    step, complete, seen = 0, False, set()
    while not complete:
        id_ = f"order-{step}"
        complete = killed_shop.completes("checkout", step, order_id=id_, session_key=session_key)
        seen.add((statuses(database).get(id_), (id_, "no_row") in differences(database, on_valkey)))
        pay_pending(database, on_valkey, older_than=NOW)
        assert statuses(database).get(id_, PAID) == PAID
        assert_agreement(database, on_valkey)
        step += 1
    assert seen == {(None, False), (PENDING, False), (PENDING, True), (PAID, False)}
    assert step > 10


def test_killed_while_pending_orders_are_paid(
    database: Engine, on_valkey: VoucherSessions, killed_shop: KilledShop
) -> None:
    place_order(database, "order", "GIFT", credits=30, session_key="cart")
    step = 0
    while not killed_shop.completes("pay_pending", step):
        step += 1
    assert step > 5
    assert statuses(database) == {"order": PAID}
    assert_agreement(database, on_valkey)
    assert on_valkey.get_voucher("GIFT").credits.used == 30


def test_killed_while_an_order_is_rolled_back(
    database: Engine, on_valkey: VoucherSessions, killed_shop: KilledShop
) -> None:
    """The difference is reported until it is repeated."""
    step, complete, seen = 0, False, set()
    while not complete:
        id_ = f"order-{step}"
        place_order(database, id_, "GIFT", credits=30)
        pay(database, on_valkey, id_)
        complete = killed_shop.completes("roll_back", step, order_id=id_)
        found = differences(database, on_valkey)
        assert found <= {(id_, "rolled_back")}
        seen.add((statuses(database)[id_], bool(found)))
        roll_back(database, on_valkey, id_)
        assert statuses(database)[id_] == ROLLED_BACK
        assert_agreement(database, on_valkey)
        step += 1
    assert seen == {(PAID, False), (PAID, True), (ROLLED_BACK, False)}


# Refusals, and errors of one order


def test_what_does_not_fit_is_refused_for_good(database: Engine, vouchers: VoucherSessions) -> None:
    place_order(database, "order", "GIFT", credits=71)
    assert pay(database, vouchers, "order") == REFUSED
    vouchers.release("GIFT", "cart")
    assert pay(database, vouchers, "order") == REFUSED
    assert_agreement(database, vouchers)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("code", ["", " ", "x" * 257]),
        ("id", ["", "\t", "x" * 257]),
        ("credits", [-1, 2**53, 1.5, None, "30"]),
        ("points", [-1, 2**53, True]),
        ("session_key", ["", " ", "x" * 257]),
    ],
)
def test_an_order_that_could_never_be_paid_is_not_placed(database: Engine, field: str, values: list[Any]) -> None:
    for value in values:
        order = {"id": "order", "code": "GIFT", "credits": 30, "points": 0, "session_key": None, field: value}
        with pytest.raises(InvalidRequest) as refused:
            place_order(database, order.pop("id"), order.pop("code"), **order)
        assert refused.value.field == field
    assert not statuses(database)


# Each of these stays pending, and pay_pending reports its error: what is wrong with the order, and the error.
BAD_ORDERS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "no code": ({"voucher": " "}, InvalidRequest),
    "negative": ({"credits": -1}, InvalidRequest),
    "too much": ({"points": 2**53}, InvalidRequest),
    "no session": ({"session_key": ""}, InvalidRequest),
    "taken": ({}, RedemptionConflict),
    "unknown": ({"voucher": "UNKNOWN"}, VoucherNotFound),
    "corrupt": ({"voucher": "CORRUPT"}, CorruptState),
    "newer": ({"voucher": "NEWER"}, UnknownFormat),
}


def place_bad_order(database: Engine, vouchers: VoucherSessions, id_: str) -> None:
    """One that was written by something other than ``place_order``, or whose voucher was damaged since."""
    fields: dict[str, Any] = {"voucher": "GIFT", "credits": 30, "points": 0, **BAD_ORDERS[id_][0]}
    with Session(database) as transaction, transaction.begin():
        transaction.add(Order(id=id_, status=PENDING, attempts=0, placed_at=1.0, **fields))
    admin: Any = vouchers.client
    if id_ == "taken":
        vouchers.redeem("GIFT", credits=1, redemption_id="taken")
    if id_ == "corrupt":
        admin.lpush("vs:{CORRUPT}", "of another type")
    if id_ == "newer":
        admin.set("vs:{NEWER}", b"9" + admin.get("vs:{GIFT}")[1:])


@pytest.mark.parametrize("bad", BAD_ORDERS)
def test_an_error_of_one_order_does_not_stop_the_others(database: Engine, vouchers: VoucherSessions, bad: str) -> None:
    place_bad_order(database, vouchers, bad)
    place_order(database, "order", "GIFT", credits=30, session_key="cart")
    for _ in range(2):
        with pytest.raises(ExceptionGroup) as raised:
            pay_pending(database, vouchers, older_than=NOW)
        (error,) = raised.value.exceptions
        assert type(error) is BAD_ORDERS[bad][1]
        assert error.__notes__ == [f"The order {bad!r} stays pending."]
        assert statuses(database) == {bad: PENDING, "order": PAID}


def test_every_error_is_reported(database: Engine, vouchers: VoucherSessions) -> None:
    for bad in BAD_ORDERS:
        place_bad_order(database, vouchers, bad)
    place_order(database, "order", "GIFT", credits=30)
    with pytest.raises(ExceptionGroup) as raised:
        pay_pending(database, vouchers, older_than=NOW)
    kinds = [type(error).__name__ for error in raised.value.exceptions]
    assert sorted(kinds) == sorted(kind.__name__ for _, kind in BAD_ORDERS.values())
    assert statuses(database) == {**dict.fromkeys(BAD_ORDERS, PENDING), "order": PAID}


def test_an_order_waits_for_its_voucher(database: Engine, vouchers: VoucherSessions) -> None:
    """The server may have been restored from a backup that is older than the voucher."""
    place_order(database, "order", "NEW", credits=30)
    with pytest.raises(VoucherNotFound):
        pay(database, vouchers, "order")
    with pytest.raises(ExceptionGroup):
        pay_pending(database, vouchers, older_than=NOW)
    vouchers.put_voucher(Voucher(code="NEW", credits=100))
    assert pay_pending(database, vouchers, older_than=NOW) == 1
    assert statuses(database) == {"order": PAID}
    assert not differences(database, vouchers)


# Redemptions that were rolled back


def test_a_redemption_that_was_rolled_back_before_the_order_was_paid(
    database: Engine, vouchers: VoucherSessions
) -> None:
    """The process was killed after the redemption, and somebody rolled it back before ``pay_pending`` ran."""
    place_order(database, "order", "GIFT", credits=30)
    vouchers.redeem("GIFT", credits=30, redemption_id="order")
    vouchers.rollback("GIFT", "order")
    assert pay_pending(database, vouchers, older_than=NOW) == 1
    assert statuses(database) == {"order": ROLLED_BACK}
    assert_agreement(database, vouchers)


def test_a_redemption_that_arrived_after_the_order_was_refused(database: Engine, vouchers: VoucherSessions) -> None:
    """``reconcile`` reports it until it is rolled back and this is recorded."""
    place_order(database, "order", "GIFT", credits=71)
    assert pay(database, vouchers, "order") == REFUSED
    vouchers.release("GIFT", "cart")
    vouchers.redeem("GIFT", credits=71, redemption_id="order")
    assert differences(database, vouchers) == {("order", "no_row")}
    roll_back(database, vouchers, "order")
    assert_agreement(database, vouchers)
    assert statuses(database) == {"order": ROLLED_BACK}


def test_a_refund_and_a_lost_server(database: Engine, vouchers: VoucherSessions) -> None:
    for id_ in ("order", "other"):
        place_order(database, id_, "GIFT", credits=30)
        pay(database, vouchers, id_)
    for _ in range(2):  # the second changes nothing
        roll_back(database, vouchers, "order")
        assert_agreement(database, vouchers)
    assert pay(database, vouchers, "order") == ROLLED_BACK
    admin: Any = vouchers.client
    admin.flushall()
    prepare(vouchers)
    assert differences(database, vouchers) == {("order", "no_receipt"), ("other", "no_receipt")}
    import_redemptions(vouchers, redemptions(database), count=True)
    assert_agreement(database, vouchers)


@pytest.mark.parametrize("credits", [30, 71])
def test_what_was_never_redeemed_cannot_be_rolled_back(
    database: Engine, vouchers: VoucherSessions, credits: int
) -> None:
    place_order(database, "order", "GIFT", credits=credits)
    for expected in (PENDING, REFUSED if credits == 71 else PENDING):
        with pytest.raises(RedemptionNotFound):
            roll_back(database, vouchers, "order")
        assert statuses(database) == {"order": expected}
        if credits == 71:
            pay(database, vouchers, "order")


# Sessions, servers that are down, and other processes


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


STOPS = [
    ServerUnavailable("redeem", ["GIFT"], "down"),
    OutcomeUnknown("redeem", ["GIFT"], "the reply was lost"),
    ServerRefused("redeem", ["GIFT"], "full", "make room"),
    NotDurable("redeem", "no replica", None),
]


@pytest.mark.parametrize("error", STOPS, ids=lambda error: type(error).__name__)
def test_an_error_of_the_server_stops_at_once(database: Engine, vouchers: VoucherSessions, error: Exception) -> None:
    """Every further order would wait for the server as well."""
    place_bad_order(database, vouchers, "no code")
    calls: list[str] = []

    def redeem(*args: Any, **options: Any) -> Any:
        calls.append(options["redemption_id"])
        if options["redemption_id"] == "no code":
            raise InvalidRequest("code", "must not be blank")
        raise error

    for id_ in ("a", "b", "c"):
        place_order(database, id_, "GIFT", credits=30)
    vars(vouchers)["redeem"] = redeem
    with pytest.raises(type(error)):
        pay_pending(database, vouchers, older_than=NOW)
    assert calls == ["no code", "a"]
    assert set(statuses(database).values()) == {PENDING}


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
