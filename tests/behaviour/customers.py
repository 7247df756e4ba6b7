"""Customers who use one voucher, each in a process of its own. The processes import this module, which needs no pytest."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from voucher_sessions import LimitExceeded, VoucherSessions

# A process that has imported the engine is forked for each customer, before it has opened anything.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["voucher_sessions.engine"])


def in_processes(work: Callable[[Any], Any], arguments: list[Any]) -> list[Any]:
    with processes.Pool(len(arguments)) as pool:
        return pool.map(work, arguments, chunksize=1)


def redeem_many(task: tuple[str, int, int]) -> int:
    """How many of the tries, with and without a session, were redeemed."""
    url, worker, tries = task
    redeemed = 0
    with VoucherSessions.from_url(url) as engine:
        for at in range(tries):
            try:
                if at % 2:
                    key = f"w{worker}-{at}"
                    if not engine.validate("HUNDRED", session={"type": "LOCK", "key": key}).valid:
                        continue
                    engine.redeem("HUNDRED", session=key, redemption_id=key)
                else:
                    engine.redeem("HUNDRED")
                redeemed += 1
            except LimitExceeded:
                pass
    return redeemed


def spend_many(task: tuple[str, int]) -> int:
    """How many credits this worker spent according to its results."""
    url, worker = task
    spent = 0
    with VoucherSessions.from_url(url) as engine:
        for at in range(150):
            amount = 7 + (at * 31 + worker * 17) % 90
            key = f"w{worker}-{at}"
            try:
                validation = engine.validate("GIFT", credits=amount, session={"type": "LOCK", "key": key})
                if not validation.valid:
                    continue
                if at % 5 == 0:
                    engine.release("GIFT", key)
                    continue
                spent += engine.redeem("GIFT", credits=amount + at % 3, session=key).credits
            except LimitExceeded:
                engine.release("GIFT", key)
    return spent


def override_many(task: tuple[str, int]) -> None:
    url, worker = task
    with VoucherSessions.from_url(url) as engine:
        for at in range(300):
            engine.validate("GIFT", credits=1 + (at + worker) % 9, session={"type": "LOCK", "key": "cart"})


def pay_the_same(url: str) -> bool:
    with VoucherSessions.from_url(url) as engine:
        return engine.redeem("GIFT", credits=30, redemption_id="order").replayed
