"""The bulk tools on a cluster and with Sentinel: every primary is walked over, also while slots move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bulk.odd_texts import ODD_TEXTS
from conftest import VARIANTS, Backend
from support.sessions import lock

from cluster.topology import Cluster, Node, slot_of
from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions._transport import clients
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
    yielded = [next(walk).code]
    for code in CODES[:60]:
        cluster.move(slot_of(f"vs:{{{code}}}"))
    yielded += [each.code for each in walk]
    assert Counter(yielded) == Counter(CODES)


# Slots that are left open: some of their keys have moved, and nobody goes on


@contextmanager
def left_open(cluster: Cluster, slots: set[int], target: Node) -> Iterator[None]:
    """Open these slots, and close them when the test is over."""
    sources = {slot: cluster.primary_of(slot) for slot in slots}
    try:
        for slot in slots:
            cluster.open_slot(slot, target)
        yield
    finally:
        for slot, source in sources.items():
            cluster.close_slot(slot, source, target)


def slots_by_primary(engine: VoucherSessions, cluster: Cluster) -> list[tuple[Node, list[str]]]:
    """The primaries in the order of the scan, each with the codes whose keys it has."""
    codes: dict[int, list[str]] = {}
    for code in CODES:
        codes.setdefault(cluster.primary_of(slot_of(f"vs:{{{code}}}")).port, []).append(code)
    ports = [int(each.address.rpartition(":")[2]) for each in clients.primaries(engine.client)]
    return [(next(node for node in cluster.nodes if node.port == port), codes[port]) for port in ports]


def slots_of(codes: list[str]) -> set[int]:
    return {slot_of(f"vs:{{{code}}}") for code in codes}


def receipts_of(codes: list[str]) -> list[bytes]:
    return [f"vs:{{{code}}}:redemption:order of {code}".encode() for code in codes]


def move_keys(cluster: Cluster, keys: list[bytes], target: Node) -> None:
    for key in keys:
        cluster.migrate([key], cluster.primary_of(slot_of(key)), target)


@pytest.mark.parametrize("backend", ["cluster"], indirect=True)
@pytest.mark.parametrize("opened_before", [False, True])
def test_receipts_that_move_during_the_scan_to_a_server_that_was_read(
    engine: VoucherSessions, backend: Backend, cluster: Cluster, opened_before: bool
) -> None:
    fill(engine)
    (first, codes_of_first), *_, (_, codes_of_last) = slots_by_primary(engine, cluster)
    codes = codes_of_last[:7]
    scan = scan_redemptions(engine, batch=20)
    with left_open(cluster, slots_of(codes), first):
        yielded = [next(scan).code] if not opened_before else []
        while set(yielded) <= set(codes_of_first):
            yielded.append(next(scan).code)
        move_keys(cluster, receipts_of(codes), first)
        yielded += [each.code for each in scan]
        assert Counter(yielded) == Counter(CODES)


@pytest.mark.parametrize("backend", ["cluster"], indirect=True)
def test_slots_that_were_left_half_moved_long_ago(engine: VoucherSessions, backend: Backend, cluster: Cluster) -> None:
    """Half of the keys of a voucher are on one server, half on another."""
    fill(engine)
    rows = [{"code": code, "id": f"order of {code}", "credits": 1} for code in CODES]
    (first, _), *_, (_, codes_of_last) = slots_by_primary(engine, cluster)
    codes = codes_of_last[:5]
    import_redemptions(engine, ({"code": code, "id": "other", "credits": 1} for code in codes), count=True)
    rows += [{"code": code, "id": "other", "credits": 1} for code in codes]
    expected = Counter((row["code"], row["id"]) for row in rows)
    with left_open(cluster, slots_of(codes), first):
        for moved in (receipts_of(codes), [f"vs:{{{code}}}".encode() for code in codes]):
            move_keys(cluster, moved, first)
            assert Counter((each.code, each.id) for each in scan_redemptions(engine, batch=20)) == expected
            for code in codes:
                assert {each.id for each in scan_redemptions(engine, code)} == {f"order of {code}", "other"}
            assert not list(reconcile(engine, rows))


@pytest.mark.parametrize("backend", ["cluster"], indirect=True)
def test_vouchers_that_move_during_the_scan_to_a_server_that_was_read(
    engine: VoucherSessions, backend: Backend, cluster: Cluster
) -> None:
    """All keys of a voucher move together; a server does not run calls about a voucher whose keys are on two."""
    fill(engine)
    (first, codes_of_first), *_, (last, codes_of_last) = slots_by_primary(engine, cluster)
    codes = codes_of_last[:7]
    for code in codes:
        for key in ("cart", "other"):  # two locks have an index
            engine.validate(code, credits=1, session=lock(key))
    scan = scan_vouchers(engine, batch=20)
    with left_open(cluster, slots_of(codes), first):
        yielded = [next(scan).code]
        while set(yielded) <= set(codes_of_first):
            yielded.append(next(scan).code)
        for code in codes:
            cluster.migrate([f"vs:{{{code}}}".encode(), f"vs:{{{code}}}:locks".encode()], last, first)
        yielded += [each.code for each in scan]
        assert Counter(yielded) == Counter(CODES)


@pytest.mark.parametrize("backend", ["cluster"], indirect=True)
def test_a_server_is_not_reached_by_a_slot_that_is_open(
    engine: VoucherSessions, backend: Backend, cluster: Cluster
) -> None:
    """A call about a key that does not exist is redirected from an open slot, so another server would be read twice."""
    fill(engine)
    (first, _), *_ = slots_by_primary(engine, cluster)
    others = [primary for primary in clients.primaries(engine.client) if not primary.address.endswith(str(first.port))]
    with left_open(cluster, {slot_of(primary.tag) for primary in others}, first):
        assert Counter(each.code for each in scan_vouchers(engine)) == Counter(CODES)
        assert Counter(each.code for each in scan_redemptions(engine)) == Counter(CODES)
