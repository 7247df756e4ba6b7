"""DESIGN.md 3.22: a server is restored from an old backup, and the redemptions that the shop recorded are imported."""

from __future__ import annotations

import random
from collections.abc import Callable
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
        self._random = random.Random(seed)
        self._number = 0

    def lock(self) -> tuple[str, str, int]:
        self._number += 1
        code, key, credits = self._random.choice(CODES), f"cart-{self._number}", self._random.randrange(1, 50)
        assert self.engine.validate(code, credits=credits, session=lock(key, 3_600_000)).valid
        return code, key, credits

    def sell(self, locked: tuple[str, str, int] | None = None) -> None:
        """Redeem one cart, and roll back some of the orders, wholly or in part."""
        code, key, credits = locked or self.lock()
        id_ = f"order-of-{key}"
        self.engine.redeem(code, credits=credits, session=key, redemption_id=id_, if_session_missing="redeem")
        row = {"code": code, "id": id_, "credits": credits, "points": 0, "session_key": key}
        self.rows[code, id_] = row | {"rolled_back": False, "credits_rolled_back": 0}
        if self._random.random() < 0.2:
            self.engine.rollback(code, id_)
            self.rows[code, id_]["rolled_back"] = True
        elif self._random.random() < 0.2:
            self.engine.rollback(code, id_, credits=1, rollback_id=f"of-{key}")
            self.rows[code, id_]["credits_rolled_back"] = 1

    def used(self, code: str) -> int:
        """What is used of a voucher according to the rows."""
        return sum(
            row["credits"] - row["credits_rolled_back"]
            for row in self.rows.values()
            if row["code"] == code and not row["rolled_back"]
        )


def import_and_roll_back_again(shop: Shop) -> None:
    """Import the rows, then repeat the rollbacks that were lost."""
    import_redemptions(shop.engine, list(shop.rows.values()), count=True)
    for difference in list(reconcile(shop.engine, list(shop.rows.values()))):
        row = difference.row
        if difference.kind != "rolled_back" or row is None or difference.receipt is None:
            continue
        if row.rolled_back:
            shop.engine.rollback(row.code, row.id)
        elif more := (row.credits_rolled_back or 0) - difference.receipt.credits_rolled_back:
            shop.engine.rollback(row.code, row.id, credits=more, rollback_id=f"again-{row.id}")


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
    early = [key for key, row in shop.rows.items() if not row["rolled_back"]][:3]
    restored()
    for cart in locked[:20]:
        shop.sell(cart)
    for _ in range(20):
        shop.sell()
    for code, id_ in early:  # orders from before the backup that are rolled back after it
        engine.rollback(code, id_)
        shop.rows[code, id_]["rolled_back"] = True
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
    import_and_roll_back_again(shop)
    assert_whole(shop, len(open_carts))
    import_and_roll_back_again(shop)  # again: nothing is counted or given back twice
    assert_whole(shop, len(open_carts))


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

    import_redemptions(engine, iter(old), count=True, on_progress=sell)
    import_and_roll_back_again(shop)
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
