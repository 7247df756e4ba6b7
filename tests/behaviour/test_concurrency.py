"""Many processes use one voucher on a real server: the limit is never exceeded, not by one redemption and not by one cent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.servers import BINARIES, Server

from behaviour.customers import in_processes, override_many, pay_the_same, redeem_many, spend_many
from voucher_sessions import LimitExceeded, Voucher, VoucherSessions

PROCESSES = 8


@pytest.fixture(params=list(BINARIES))
def server(request: pytest.FixtureRequest, server_of: Callable[[str], Server]) -> Server:
    server = server_of(request.param)
    with server.client() as admin:
        admin.flushall()
    return server


def test_a_voucher_of_100_is_redeemed_exactly_100_times(server: Server) -> None:
    with VoucherSessions.from_url(server.url) as engine:
        engine.put_voucher(Voucher(code="HUNDRED", quantity=100))
        redeemed = in_processes(redeem_many, [(server.url, worker, 250) for worker in range(PROCESSES)])
        state = engine.get_voucher("HUNDRED").quantity
        assert sum(redeemed) == 100
        assert (state.used, state.locked, state.available) == (100, 0, 0)


def test_a_gift_card_never_pays_more_than_its_balance(server: Server) -> None:
    with VoucherSessions.from_url(server.url) as engine:
        engine.put_voucher(Voucher(code="GIFT", credits=20_000))
        spent = in_processes(spend_many, [(server.url, worker) for worker in range(PROCESSES)])
        credits = engine.get_voucher("GIFT").credits
        assert credits.used == sum(spent) <= 20_000
        assert credits.locked == 0
        assert sum(spent) > 19_900, "the card was there to be spent"


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
