"""Many processes use one voucher on a real server: the limit is never exceeded, not by one redemption and not by one cent."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.servers import BINARIES, Server

from voucher_sessions import LimitExceeded, Voucher, VoucherSessions

PROCESSES = 8
spawn = multiprocessing.get_context("spawn")


@pytest.fixture(params=list(BINARIES))
def server(request: pytest.FixtureRequest, server_of: Callable[[str], Server]) -> Server:
    server = server_of(request.param)
    with server.client() as admin:
        admin.flushall()
    return server


def in_processes(work: Callable[[Any], Any], arguments: list[Any]) -> list[Any]:
    with spawn.Pool(len(arguments)) as pool:
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


def test_a_voucher_of_100_is_redeemed_exactly_100_times(server: Server) -> None:
    with VoucherSessions.from_url(server.url) as engine:
        engine.put_voucher(Voucher(code="HUNDRED", quantity=100))
        redeemed = in_processes(redeem_many, [(server.url, worker, 250) for worker in range(PROCESSES)])
        state = engine.get_voucher("HUNDRED").quantity
        assert sum(redeemed) == 100
        assert (state.used, state.locked, state.available) == (100, 0, 0)


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


def test_a_gift_card_never_pays_more_than_its_balance(server: Server) -> None:
    with VoucherSessions.from_url(server.url) as engine:
        engine.put_voucher(Voucher(code="GIFT", credits=20_000))
        spent = in_processes(spend_many, [(server.url, worker) for worker in range(PROCESSES)])
        credits = engine.get_voucher("GIFT").credits
        assert credits.used == sum(spent) <= 20_000
        assert credits.locked == 0
        assert sum(spent) > 19_900, "the card was there to be spent"


def override_many(task: tuple[str, int]) -> None:
    url, worker = task
    with VoucherSessions.from_url(url) as engine:
        for at in range(300):
            engine.validate("GIFT", credits=1 + (at + worker) % 9, session={"type": "LOCK", "key": "cart"})


def test_overrides_from_two_processes_end_with_one_lock(server: Server) -> None:
    with VoucherSessions.from_url(server.url) as engine:
        engine.put_voucher(Voucher(code="GIFT", credits=10))
        in_processes(override_many, [(server.url, worker) for worker in range(2)])
        (session,) = engine.list_sessions("GIFT")
        state = engine.get_voucher("GIFT")
        assert (state.quantity.locked, state.credits.locked) == (1, session.credits)


def test_one_order_id_from_many_processes_is_redeemed_once(server: Server) -> None:
    with VoucherSessions.from_url(server.url) as engine:
        engine.put_voucher(Voucher(code="GIFT", credits=10_000))
        results = in_processes(pay_the_same, [server.url] * PROCESSES)
        assert sorted(results) == [False] + [True] * (PROCESSES - 1)
        assert engine.get_voucher("GIFT").credits.used == 30


def pay_the_same(url: str) -> bool:
    with VoucherSessions.from_url(url) as engine:
        return engine.redeem("GIFT", credits=30, redemption_id="order").replayed


@pytest.mark.parametrize(
    "options", [{}, {"single_connection_client": True}, {"retry": None}, {"max_connections": 64}], ids=str
)
def test_one_engine_shared_by_threads(server: Server, options: dict[str, Any]) -> None:
    """Over pooled clients and one of a single connection, with redis-py's retries and without."""
    with server.client(**options) as client, ThreadPoolExecutor(16) as threads:
        engine = VoucherSessions(client)
        engine.put_voucher(Voucher(code="HUNDRED", quantity=100))

        def buy(at: int) -> bool:
            try:
                if engine.validate("HUNDRED", session={"type": "LOCK", "key": f"cart{at}"}).valid:
                    return engine.redeem("HUNDRED", session=f"cart{at}").session_key == f"cart{at}"
            except LimitExceeded:
                pass
            return False

        assert sum(threads.map(buy, range(400))) == 100
        state = engine.get_voucher("HUNDRED").quantity
        assert (state.used, state.locked) == (100, 0)
