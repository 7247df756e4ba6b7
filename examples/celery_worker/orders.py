"""The orders of the shop, in SQLite. The shop writes an order before it queues the task that pays it."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final, NamedTuple

from voucher_sessions import LimitExceeded, RedemptionConflict, VoucherNotFound

PENDING, PAID, REFUSED = "pending", "paid", "refused"
# Errors after which the voucher will not pay this order.
REFUSALS: Final = (LimitExceeded, RedemptionConflict, VoucherNotFound)


class Order(NamedTuple):
    """An order that a voucher is to pay."""

    id: str
    code: str
    credits: int  # in minor units (cents)
    session_key: str | None = None  # of the cart, if it has locked the voucher


def place(order: Order) -> None:
    """Write an order, which is pending."""
    with _transaction() as database:
        database.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)", (*order, PENDING, time.time()))


@contextmanager
def paying(order_id: str) -> Iterator[Order]:
    """The order, for the time in which its voucher is redeemed; nobody else pays it meanwhile.

    Then the order is paid, or refused if the redemption was. After any other error, and if the process is killed, it is
    pending as before. An order that was refused stays so.
    """
    with _transaction() as database:
        row = database.execute("SELECT * FROM orders WHERE id = ?", (order_id,)).fetchone()
        if row is None or row[-2] == REFUSED:
            raise LookupError(f"there is no order {order_id!r} that a voucher may pay")
        status = "UPDATE orders SET status = ? WHERE id = ?"
        try:
            yield Order(*row[:-2])
        except REFUSALS:
            database.execute(status, (REFUSED, order_id))
            database.commit()
            raise
        database.execute(status, (PAID, order_id))


def pending(older_than_seconds: float) -> list[str]:
    """The ids of orders that have been pending for so long."""
    with _transaction() as database:
        find = "SELECT id FROM orders WHERE status = ? AND placed_at <= ?"
        return [id for (id,) in database.execute(find, (PENDING, time.time() - older_than_seconds))]


def status(order_id: str) -> str:
    """Whether an order is pending, paid or refused."""
    with _transaction() as database:
        (found,) = database.execute("SELECT status FROM orders WHERE id = ?", (order_id,)).fetchone()
    return str(found)


@contextmanager
def _transaction() -> Iterator[sqlite3.Connection]:
    """One at a time. A database that many processes use locks the row of the order instead: SELECT ... FOR UPDATE."""
    path = os.environ.get("SHOP_DATABASE", "shop.db")
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        columns = "id PRIMARY KEY, code, credits INTEGER, session_key, status, placed_at REAL"
        database.execute(f"CREATE TABLE IF NOT EXISTS orders ({columns})")
        with database:
            yield database
