"""Runs the shop of examples/sql_agreement, and ends it at any of its steps.

As a program it pays an order and ends itself with SIGKILL at a step: killed_shop.py <database> <server> <step>
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from sql_agreement.shop import pay, place_order
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from voucher_sessions import VoucherSessions

_EVENTS = ("begin", "before_cursor_execute", "after_cursor_execute", "commit")


class Killed(BaseException):
    """The process ends here. Like ``SystemExit``, no ``except Exception`` catches it."""


def ends_at(step: int, end: Callable[[], None]) -> Callable[..., None]:
    """To be called at every step: it ends the process at the given one."""
    steps = count()

    def reached(*_: object) -> None:
        if next(steps) == step:
            end()

    return reached


def watch(database: Engine, vouchers: VoucherSessions, reached: Callable[..., None]) -> None:
    """Call ``reached`` before and after every statement, commit and redemption."""
    for name in _EVENTS:
        event.listen(database, name, reached)
    event.listen(Session, "after_commit", reached)
    redeem = vouchers.redeem

    def watched(*args: Any, **options: Any) -> Any:
        reached()
        redeemed = redeem(*args, **options)
        reached()
        return redeemed

    vars(vouchers)["redeem"] = watched


def unwatch(database: Engine, vouchers: VoucherSessions, reached: Callable[..., None]) -> None:
    """The opposite. Closes the connections to the database, as the end of a process does."""
    for name in _EVENTS:
        event.remove(database, name, reached)
    event.remove(Session, "after_commit", reached)
    del vars(vouchers)["redeem"]
    gc.collect()  # a commit that was interrupted keeps its connection until then
    database.dispose()


def checkout(database: Engine, vouchers: VoucherSessions, order_id: str, session_key: str | None) -> None:
    """What a request does."""
    place_order(database, order_id, "GIFT", credits=30, session_key=session_key)
    pay(database, vouchers, order_id)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    database_url, server_url, step = sys.argv[1:]
    database, vouchers = create_engine(database_url), VoucherSessions.from_url(server_url)
    watch(database, vouchers, ends_at(int(step), die))
    checkout(database, vouchers, "order", "cart")
