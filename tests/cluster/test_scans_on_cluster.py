"""The bulk tools on a cluster and with Sentinel: every primary is walked over, also while slots move."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from bulk.odd_texts import ODD_TEXTS
from conftest import VARIANTS, Backend

from cluster.topology import Cluster, slot_of
from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions.bulk import import_redemptions, put_vouchers, reconcile, scan_redemptions, scan_vouchers

CODES = [f"GIFT-{at}" for at in range(300)]


@pytest.fixture(params=VARIANTS[:2])
def variant(request: pytest.FixtureRequest) -> Any:
    return request.param


def fill(engine: VoucherSessions) -> None:
    assert put_vouchers(engine, (Voucher(code=code, credits=100) for code in CODES)).new == len(CODES)
    rows = ({"code": code, "id": f"order of {code}", "credits": 1} for code in CODES)
    assert import_redemptions(engine, rows, count=True).new == len(CODES)


def test_all_primaries_are_walked_over(engine: VoucherSessions) -> None:
    fill(engine)
    assert Counter(each.code for each in scan_vouchers(engine, batch=20)) == Counter(CODES)
    expected = Counter((code, f"order of {code}") for code in CODES)
    assert Counter((each.code, each.id) for each in scan_redemptions(engine, batch=20)) == expected
    for code in CODES[:20]:
        assert [each.id for each in scan_redemptions(engine, code)] == [f"order of {code}"]
    rows = [{"code": code, "id": f"order of {code}", "credits": 1} for code in CODES]
    assert not list(reconcile(engine, rows))
    assert {(each.kind, each.code) for each in reconcile(engine, rows[1:])} == {("no_row", CODES[0])}


@pytest.mark.parametrize("partition", ["p-1"])
def test_in_one_partition(engine: VoucherSessions) -> None:
    fill(engine)
    assert Counter(each.code for each in scan_vouchers(engine)) == Counter(CODES)
    assert [each.id for each in scan_redemptions(engine, CODES[3])] == [f"order of {CODES[3]}"]


def test_odd_codes_and_ids(engine: VoucherSessions) -> None:
    put_vouchers(engine, (Voucher(code=code) for code in ODD_TEXTS))
    for code, id_ in zip(ODD_TEXTS, reversed(ODD_TEXTS), strict=True):
        engine.redeem(code, redemption_id=id_)
    assert Counter(each.code for each in scan_vouchers(engine)) == Counter(ODD_TEXTS)
    for code, id_ in zip(ODD_TEXTS, reversed(ODD_TEXTS), strict=True):
        assert [(each.code, each.id) for each in scan_redemptions(engine, code)] == [(code, id_)]


@pytest.mark.parametrize("backend", ["cluster"], indirect=True)
def test_exactly_once_while_slots_move(engine: VoucherSessions, backend: Backend, cluster: Cluster) -> None:
    """If slots move during the walk, it is repeated, so that keys that moved to a server already read are found."""
    fill(engine)
    walk = scan_vouchers(engine, batch=20)
    told = [next(walk).code]
    for code in CODES[:60]:
        cluster.move(slot_of(f"vs:{{{code}}}"))
    told += [each.code for each in walk]
    assert Counter(told) == Counter(CODES)
