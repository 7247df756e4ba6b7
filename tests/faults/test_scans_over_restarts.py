"""A server restarts during a scan: its hash table then has another order, so that an old cursor is invalid."""

from __future__ import annotations

from collections import Counter

from redis.backoff import ConstantBackoff
from redis.retry import Retry
from support.servers import running

from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions.bulk import put_vouchers, scan_vouchers

CODES = [f"GIFT-{at}" for at in range(600)]


def test_each_voucher_is_yielded_once() -> None:
    with (
        running("valkey", save="3600 1") as server,
        server.client(retry=Retry(ConstantBackoff(0.1), 200)) as client,
        VoucherSessions(client) as engine,
    ):
        put_vouchers(engine, (Voucher(code=code) for code in CODES))
        walk = scan_vouchers(engine, batch=10)
        yielded = [next(walk).code]
        server.stop()  # saves what it has
        server.start()
        yielded += [each.code for each in walk]
    assert Counter(yielded) == Counter(CODES)
