"""DESIGN.md 3.22: a server is restored from an old backup, and the redemptions that the shop recorded are imported."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from behaviour.test_semantics import lock
from conftest import Backend

from voucher_sessions import Used, Voucher, VoucherSessions
from voucher_sessions.bulk import import_redemptions, put_vouchers, reconcile, scan_vouchers

CODES = [f"GIFT-{at}" for at in range(6)]
CREDITS = 10_000


class Shop:
    """Redeems, and records each redemption as a row, as a shop's database does."""

    def __init__(self, engine: VoucherSessions, seed: int) -> None:
        self.engine = engine
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.refunds: list[tuple[str, str, dict[str, Any]]] = []
        self._random = random.Random(seed)
        self._number = 0

    def lock(self) -> tuple[str, str, int]:
        self._number += 1
        code, key, credits = self._random.choice(CODES), f"cart-{self._number}", self._random.randrange(1, 50)
        assert self.engine.validate(code, credits=credits, session=lock(key, 3_600_000)).valid
        return code, key, credits

    def sell(self, locked: tuple[str, str, int] | None = None) -> None:
        """Redeem one cart, and roll back some of the orders, wholly or in part or first in part and then wholly."""
        code, key, credits = locked or self.lock()
        id_ = f"order-of-{key}"
        self.engine.redeem(code, credits=credits, session=key, redemption_id=id_, if_session_missing="redeem")
        row = {"code": code, "id": id_, "credits": credits, "points": 0, "session_key": key}
        self.rows[code, id_] = row | {"rolled_back": False, "credits_rolled_back": 0}
        if credits > 1 and self._random.random() < 0.4:
            self.refund(code, id_, 1)
        if self._random.random() < 0.2:
            self.roll_back(code, id_)

    def refund(self, code: str, id_: str, credits: int) -> None:
        """Roll back a part, and record the rollback id."""
        refund: dict[str, Any] = {"credits": credits, "rollback_id": f"refund-{len(self.refunds)}"}
        self.engine.rollback(code, id_, **refund)
        self.refunds.append((code, id_, refund))
        self.rows[code, id_]["credits_rolled_back"] += credits

    def roll_back(self, code: str, id_: str) -> None:
        self.engine.rollback(code, id_)
        self.rows[code, id_]["rolled_back"] = True

    def used(self, code: str) -> int:
        """What is used of a voucher according to the rows."""
        return sum(
            row["credits"] - row["credits_rolled_back"]
            for row in self.rows.values()
            if row["code"] == code and not row["rolled_back"]
        )


def without_refunds(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """As docs/import-and-restore.md says: the refunds are repeated with their ids, so the rows leave them out."""
    return ({name: value for name, value in row.items() if name != "credits_rolled_back"} for row in rows)


def import_and_repeat_rollbacks(shop: Shop) -> None:
    """Steps 3 to 5 of docs/import-and-restore.md."""
    import_redemptions(shop.engine, without_refunds(shop.rows.values()), count=True)
    for code, id_, refund in shop.refunds:
        if not shop.rows[code, id_]["rolled_back"]:
            shop.engine.rollback(code, id_, **refund)
    for difference in list(reconcile(shop.engine, list(shop.rows.values()))):
        if difference.kind == "rolled_back" and difference.row and difference.row.rolled_back:
            shop.engine.rollback(difference.code, difference.id)


@pytest.fixture
def restored(backend: Backend) -> Callable[[], None]:
    """Call it once for the backup, and once to restore it."""
    backup: dict[bytes, tuple[int, Any]] = {}

    def backup_or_restore() -> None:
        if not backup:
            backup.update({key: (ttl, backend.admin.dump(key)) for key, ttl in backend.keys().items()})
            return
        backend.admin.flushall()
        for key, (ttl, value) in backup.items():
            backend.admin.restore(key, max(0, ttl), value)

    return backup_or_restore


def run(engine: VoucherSessions, restored: Callable[[], None]) -> tuple[Shop, list[tuple[str, str, int]]]:
    """Sales before a backup and after it; then the backup is restored. Also the carts that are still to be paid."""
    put_vouchers(engine, (Voucher(code=code, credits=CREDITS) for code in CODES))
    shop = Shop(engine, seed=13)
    for _ in range(30):
        shop.sell()
    locked = [shop.lock() for _ in range(30)]
    early = [key for key, row in shop.rows.items() if not row["rolled_back"] and row["credits"] > 5]
    for name in early[:9:3]:
        shop.refund(*name, 2)
    restored()
    for cart in locked[:20]:
        shop.sell(cart)
    for _ in range(20):
        shop.sell()
    for name in early[:6]:  # orders from before the backup that are rolled back after it
        shop.refund(*name, 1)
    for name in early[4:9]:
        shop.roll_back(*name)
    restored()
    assert list(reconcile(engine, list(shop.rows.values())))
    return shop, locked[20:]


def assert_whole(shop: Shop, open_carts: int) -> None:
    engine = shop.engine
    assert not list(reconcile(engine, list(shop.rows.values())))
    for state in scan_vouchers(engine):
        assert state.credits.used == shop.used(state.code)
        assert not engine.audit(state.code).differs
    assert sum(len(engine.list_sessions(code)) for code in CODES) == open_carts


def test_a_backup_and_the_rows_of_the_shop_restore_everything(
    engine: VoucherSessions, restored: Callable[[], None]
) -> None:
    shop, open_carts = run(engine, restored)
    import_and_repeat_rollbacks(shop)
    assert_whole(shop, len(open_carts))
    import_and_repeat_rollbacks(shop)  # again: nothing is counted or given back twice
    assert_whole(shop, len(open_carts))
    assert all(engine.rollback(code, id_, **refund).replayed for code, id_, refund in repeatable(shop))


def repeatable(shop: Shop) -> list[tuple[str, str, dict[str, Any]]]:
    """The refunds of redemptions that were not rolled back as a whole."""
    found = [refund for refund in shop.refunds if not shop.rows[refund[:2]]["rolled_back"]]
    assert len(found) > 10
    return found


def test_the_shop_goes_on_selling_meanwhile(engine: VoucherSessions, restored: Callable[[], None]) -> None:
    """Between the chunks of the import it redeems, and repeats redemptions whose reply was lost."""
    shop, open_carts = run(engine, restored)
    old = list(shop.rows.values())
    lost = [row for row in old if not row["rolled_back"] and not row["credits_rolled_back"]]

    def sell(done: int) -> None:
        if open_carts:
            shop.sell(open_carts.pop())
        shop.sell()
        row = lost[-done % len(lost)]
        names = {"session": row["session_key"], "redemption_id": row["id"], "if_session_missing": "redeem"}
        engine.redeem(row["code"], credits=row["credits"], **names)

    import_redemptions(engine, without_refunds(old), count=True, on_progress=sell)
    import_and_repeat_rollbacks(shop)
    assert_whole(shop, len(open_carts))


def test_a_card_is_not_spent_twice_by_a_revived_lock(engine: VoucherSessions, restored: Callable[[], None]) -> None:
    """Until its row is imported, the lock of the backup holds the amount. The import ends the lock and adds to used."""
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    engine.validate("GIFT", credits=100, session=lock("cart"))
    restored()
    engine.redeem("GIFT", session="cart", redemption_id="order")
    restored()
    assert not engine.validate("GIFT", credits=1, session=lock("thief")).valid
    row = {"code": "GIFT", "id": "order", "credits": 100, "points": 0, "session_key": "cart"}
    import_redemptions(engine, [row], count=True)
    assert not engine.validate("GIFT", credits=1, session=lock("thief")).valid
    assert engine.redeem("GIFT", credits=100, session="cart", redemption_id="order").replayed
    assert engine.get_voucher("GIFT").credits.used == 100


def test_an_empty_server_and_used_from_the_shop(engine: VoucherSessions, backend: Backend) -> None:
    """Without a backup: put the vouchers with the sums of the rows as used, and import the rows with count=False."""
    put_vouchers(engine, (Voucher(code=code, credits=CREDITS) for code in CODES))
    shop = Shop(engine, seed=5)
    for _ in range(30):
        shop.sell()
    states = list(scan_vouchers(engine))
    backend.admin.flushall()
    for state in states:
        used = {name: getattr(state, name).used for name in ("quantity", "credits", "points")}
        put_vouchers(engine, [(Voucher(code=state.code, credits=CREDITS), Used(**used))])
    import_redemptions(engine, list(shop.rows.values()), count=False)
    assert_whole(shop, 0)


def test_a_refund_whose_reply_was_lost_is_made_once(engine: VoucherSessions, restored: Callable[[], None]) -> None:
    """The shop repeats it after the restore, as it would have done without the loss."""
    engine.put_voucher(Voucher(code="GIFT", credits=100, points=50))
    restored()
    engine.redeem("GIFT", credits=60, points=9, redemption_id="order")
    refunds: list[dict[str, Any]] = [
        {"credits": 20, "rollback_id": "refund-1"},
        {"credits": 5, "points": 4, "rollback_id": "refund-2"},
    ]
    for refund in refunds:
        engine.rollback("GIFT", "order", **refund)
    restored()
    row = {"code": "GIFT", "id": "order", "credits": 60, "points": 9}
    import_redemptions(engine, [row], count=True)
    for again in (False, True):
        for refund in refunds:
            assert engine.rollback("GIFT", "order", **refund).replayed is again
    state = engine.get_voucher("GIFT")
    assert (state.quantity.used, state.credits.used, state.points.used) == (1, 35, 5)
    assert not list(reconcile(engine, [row | {"credits_rolled_back": 25, "points_rolled_back": 4}]))


def test_used_figures_without_the_refunds(engine: VoucherSessions) -> None:
    """With ``count=False`` the refunds can be repeated if the used figures do not contain them."""
    put_vouchers(engine, [(Voucher(code="GIFT", credits=100), Used(quantity=1, credits=60))])
    row = {"code": "GIFT", "id": "order", "credits": 60, "rolled_back": False}
    import_redemptions(engine, [row], count=False)
    assert not engine.rollback("GIFT", "order", credits=20, rollback_id="refund-1").replayed
    assert engine.rollback("GIFT", "order", credits=20, rollback_id="refund-1").replayed
    assert engine.get_voucher("GIFT").credits.used == 40
    assert not list(reconcile(engine, [row | {"credits_rolled_back": 20}]))
