"""Orders in an SQL database, vouchers in Redis: at the end both agree, wherever the process was killed.

    place_order     1. write the order as pending, and commit
    pay             2. redeem under the order's id, with the amounts of the order
                    3. write the result to the order, and commit
    pay_pending     repeats 2 and 3 for each order that is still pending
    roll_back       gives the amounts of an order back, and writes this to the order

The order is written before the voucher is redeemed, so each redemption has an order. The order's id is the redemption
id, so it is safe to redeem again: Redis returns the first redemption.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Engine, String, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from voucher_sessions import (
    CorruptState,
    InvalidRequest,
    LimitExceeded,
    RedemptionConflict,
    RedemptionRolledBack,
    VoucherNotFound,
    VoucherSessions,
)
from voucher_sessions.bulk import RedemptionRow

PENDING, PAID, REFUSED, ROLLED_BACK = "pending", "paid", "refused", "rolled back"

# Errors that concern one order or one voucher, so that the next order can be paid all the same.
ERRORS_OF_ONE_ORDER = (InvalidRequest, VoucherNotFound, RedemptionConflict, CorruptState)


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
    """Step 1: write the order as pending. Only an order that is committed here can be paid.

    If it could not be redeemed because of a value that is wrong, ``InvalidRequest`` is raised and nothing is written.
    """
    RedemptionRow(code=voucher, id=order_id, credits=credits, points=points, session_key=session_key)
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

    If an error is raised, the order stays pending: ``OutcomeUnknown`` or ``ServerUnavailable`` if Redis does not answer,
    and ``VoucherNotFound`` if it does not know the voucher. It may have been restored from an old backup.
    """
    with Session(database) as transaction, transaction.begin():
        order = _locked(transaction, order_id)
        if order.status == PENDING:
            order.status = _redeem(vouchers, order)
        return order.status


def _locked(transaction: Session, order_id: str) -> Order:
    """The order, locked until the end of the transaction (with SQLite, the whole database is locked).

    Otherwise two processes could pay it at the same time, and one could write "refused" after the other had redeemed.
    """
    transaction.execute(update(Order).where(Order.id == order_id).values(attempts=Order.attempts + 1))
    return transaction.get_one(Order, order_id)


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
    except LimitExceeded:
        return REFUSED
    except RedemptionRolledBack:
        return ROLLED_BACK
    return PAID


def pay_pending(database: Engine, vouchers: VoucherSessions, *, older_than: timedelta = timedelta(minutes=1)) -> int:
    """Pay the orders that are still pending. Run it every minute, and after a crash. Returns how many there were.

    An error of one order does not stop the others: at the end, an ``ExceptionGroup`` has the errors of all orders that
    stay pending. Any other error, such as that of a server that is down, stops it at once.

    ``older_than`` leaves out new orders, which their own request is about to pay.
    """
    before = datetime.now(UTC).timestamp() - older_than.total_seconds()
    with Session(database) as transaction:
        pending = select(Order.id).where(Order.status == PENDING, Order.placed_at <= before)
        ids = transaction.scalars(pending.order_by(Order.placed_at)).all()
    errors: list[Exception] = []
    for order_id in ids:
        try:
            pay(database, vouchers, order_id)
        except ERRORS_OF_ONE_ORDER as error:
            error.add_note(f"The order {order_id!r} stays pending.")
            errors.append(error)
    if errors:
        raise ExceptionGroup("some orders could not be paid", errors)
    return len(ids)


def roll_back(database: Engine, vouchers: VoucherSessions, order_id: str) -> None:
    """Give the amounts of an order back, and write this to the order. It is safe to repeat.

    If the order was never redeemed, ``RedemptionNotFound`` is raised, and nothing changes.
    """
    with Session(database) as transaction, transaction.begin():
        order = _locked(transaction, order_id)
        vouchers.rollback(order.voucher, order.id)
        order.status = ROLLED_BACK


def redemptions(database: Engine) -> Iterator[dict[str, Any]]:
    """The orders that were redeemed, as rows for ``reconcile`` and ``import_redemptions``."""
    redeemed = select(Order).where(Order.status.in_([PAID, ROLLED_BACK]))
    with Session(database) as transaction:
        for order in transaction.scalars(redeemed.execution_options(yield_per=1000)):
            yield {
                "code": order.voucher,
                "id": order.id,
                "credits": order.credits,
                "points": order.points,
                "session_key": order.session_key,
                "rolled_back": order.status == ROLLED_BACK,
            }
