"""Orders in an SQL database, vouchers in Redis: at the end both agree, wherever the process was killed.

    place_order     1. write the order as pending, and commit
    pay             2. redeem under the order's id, with the amounts of the order
                    3. write the result to the order, and commit
    pay_pending     repeats 2 and 3 for each order that is still pending

The order is written before the voucher is redeemed, so each redemption has an order. The order's id is the redemption
id, so it is safe to redeem again: Redis returns the first redemption.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Engine, String, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from voucher_sessions import LimitExceeded, RedemptionRolledBack, VoucherNotFound, VoucherSessions

PENDING, PAID, REFUSED = "pending", "paid", "refused"


class Base(DeclarativeBase):
    """The tables of the shop."""


class Order(Base):
    """An order that is paid with a voucher."""

    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(String(256), primary_key=True)
    voucher: Mapped[str] = mapped_column(String(256))
    credits: Mapped[int] = mapped_column(BigInteger)  # in minor units (cents); an amount can exceed 32 bits
    points: Mapped[int] = mapped_column(BigInteger)
    session_key: Mapped[str | None] = mapped_column(String(256))
    status: Mapped[str] = mapped_column(String(16), index=True)
    attempts: Mapped[int]
    placed_at: Mapped[float]  # seconds since 1970: SQLite has no time zones


def place_order(
    database: Engine, order_id: str, voucher: str, *, credits: int = 0, points: int = 0, session_key: str | None = None
) -> None:
    """Step 1: write the order as pending. Only an order that is committed here can be paid."""
    with Session(database) as transaction, transaction.begin():
        transaction.add(
            Order(
                id=order_id,
                voucher=voucher,
                credits=credits,
                points=points,
                session_key=session_key,
                status=PENDING,
                attempts=0,
                placed_at=datetime.now(UTC).timestamp(),
            )
        )


def pay(database: Engine, vouchers: VoucherSessions, order_id: str) -> str:
    """Steps 2 and 3: redeem a pending order, and write the result. Returns the status of the order afterwards.

    If Redis does not answer, ``OutcomeUnknown`` or ``ServerUnavailable`` is raised, and the order stays pending.
    """
    with Session(database) as transaction, transaction.begin():
        # This statement locks the order (SQLite: the database) until the end of the transaction. Otherwise two
        # processes could pay it at the same time, and one could write "refused" after the other had redeemed.
        claim = update(Order).where(Order.id == order_id, Order.status == PENDING).values(attempts=Order.attempts + 1)
        transaction.execute(claim)
        order = transaction.get_one(Order, order_id)
        if order.status == PENDING:
            order.status = _redeem(vouchers, order)
        return order.status


def _redeem(vouchers: VoucherSessions, order: Order) -> str:
    """Redeem the amounts of the order. The call names them, so the result does not depend on the session.

    If the session expired while the order was pending, the order can only have what no other session has locked.
    """
    try:
        vouchers.redeem(
            order.voucher,
            credits=order.credits,
            points=order.points,
            session=order.session_key,
            redemption_id=order.id,
            if_session_missing="redeem",
        )
    except (LimitExceeded, VoucherNotFound, RedemptionRolledBack):
        return REFUSED
    return PAID


def pay_pending(database: Engine, vouchers: VoucherSessions, *, older_than: timedelta = timedelta(minutes=1)) -> int:
    """Pay the orders that are still pending. Run it every minute, and after a crash. Returns how many there were.

    ``older_than`` leaves out new orders, which their own request is about to pay.
    """
    before = datetime.now(UTC).timestamp() - older_than.total_seconds()
    with Session(database) as transaction:
        pending = select(Order.id).where(Order.status == PENDING, Order.placed_at <= before)
        ids = transaction.scalars(pending.order_by(Order.placed_at)).all()
    for order_id in ids:
        pay(database, vouchers, order_id)
    return len(ids)


def redemptions(database: Engine) -> Iterator[dict[str, Any]]:
    """The paid orders, as rows for ``reconcile`` and ``import_redemptions``."""
    with Session(database) as transaction:
        for order in transaction.scalars(select(Order).where(Order.status == PAID).execution_options(yield_per=1000)):
            yield {
                "code": order.voucher,
                "id": order.id,
                "credits": order.credits,
                "points": order.points,
                "session_key": order.session_key,
            }
