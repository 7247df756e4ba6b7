"""DESIGN.md 3.22: ``scan_vouchers`` and ``scan_redemptions`` yield exactly once what exists during the whole scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from behaviour.test_semantics import lock
from cluster.topology import HOST
from conftest import Backend
from transport.two_primaries import running_two_primaries

from bulk.conftest import CHUNK
from bulk.odd_texts import ODD_TEXTS
from voucher_sessions import CorruptState, InvalidRequest, UnknownFormat, Used, Voucher, VoucherSessions
from voucher_sessions.bulk import import_redemptions, put_vouchers, scan_redemptions, scan_vouchers, scans

scan_vouchers_any: Any = scan_vouchers  # takes what type checkers refuse
scan_redemptions_any: Any = scan_redemptions


def rows(code: str, number: int) -> Iterator[dict[str, Any]]:
    return ({"code": code, "id": f"order-{at}", "credits": 1} for at in range(number))


def test_vouchers_equal_those_of_get_voucher(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100), used=Used(credits=10))
    engine.put_voucher(Voucher(code="ONCE", quantity=1))
    engine.validate("GIFT", credits=20, session=lock("cart"))
    engine.validate("GIFT", credits=30, session=lock("other"))
    engine.redeem("ONCE", redemption_id="order")
    assert sorted(scan_vouchers(engine), key=lambda each: each.code) == [
        engine.get_voucher(c) for c in ("GIFT", "ONCE")
    ]


def test_redemptions_equal_those_of_get_redemption(engine: VoucherSessions) -> None:
    for code in ("GIFT", "CARD"):
        engine.put_voucher(Voucher(code=code, credits=100))
        for id_ in ("order", "other"):
            engine.redeem(code, credits=5, redemption_id=id_)
    engine.rollback("GIFT", "order", credits=2, rollback_id="order")
    engine.adjust("GIFT", credits=2, adjustment_id="order")
    expected = {
        (code, id_): engine.get_redemption(code, id_) for code in ("GIFT", "CARD") for id_ in ("order", "other")
    }
    assert {(each.code, each.id): each for each in scan_redemptions(engine)} == expected
    of_gift = {(each.code, each.id): each for each in scan_redemptions(engine, "GIFT")}
    assert of_gift == {name: each for name, each in expected.items() if name[0] == "GIFT"}
    assert not list(scan_redemptions(engine, "NONE"))


def test_an_empty_server(engine: VoucherSessions) -> None:
    assert not list(scan_vouchers(engine))
    assert not list(scan_redemptions(engine))


def test_deleted_vouchers_are_left_out_and_their_redemptions_stay(engine: VoucherSessions) -> None:
    put_vouchers(engine, [Voucher(code="A"), Voucher(code="B")])
    engine.redeem("A", redemption_id="order")
    engine.delete_voucher("A")
    assert [each.code for each in scan_vouchers(engine)] == ["B"]
    assert [(each.code, each.id) for each in scan_redemptions(engine)] == [("A", "order")]


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_every_batch_size_yields_all(engine: VoucherSessions, batch: int) -> None:
    put_vouchers(engine, (Voucher(code=str(at), credits=300) for at in range(60)))
    import_redemptions(engine, rows("7", 60), count=True)
    assert Counter(each.code for each in scan_vouchers(engine, batch=batch)) == Counter(map(str, range(60)))
    expected = Counter(f"order-{at}" for at in range(60))
    assert Counter(each.id for each in scan_redemptions(engine, batch=batch)) == expected
    assert Counter(each.id for each in scan_redemptions(engine, "7", batch=batch)) == expected


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "partition", [None, lambda code: "one", lambda code: code[-1:] + "."], ids=["none", "one", "end"]
)
def test_odd_codes_and_ids_come_out_as_they_went_in(
    make_engine: Callable[..., VoucherSessions], partition: Callable[[str], str] | None
) -> None:
    engine = make_engine(partition=partition)
    put_vouchers(engine, (Voucher(code=code) for code in ODD_TEXTS))
    for code, id_ in zip(ODD_TEXTS, reversed(ODD_TEXTS), strict=True):
        engine.redeem(code, redemption_id=id_)
        engine.validate(code, session=lock(id_))
    assert Counter(each.code for each in scan_vouchers(engine)) == Counter(ODD_TEXTS)
    expected = Counter(zip(ODD_TEXTS, reversed(ODD_TEXTS), strict=True))
    assert Counter((each.code, each.id) for each in scan_redemptions(engine)) == expected
    for code, id_ in zip(ODD_TEXTS, reversed(ODD_TEXTS), strict=True):
        assert [(each.code, each.id) for each in scan_redemptions(engine, code)] == [(code, id_)]


def test_another_partition_has_other_vouchers(make_engine: Callable[..., VoucherSessions], backend: Backend) -> None:
    one, none = make_engine(partition=lambda code: "one"), make_engine()
    for engine, code in ((one, "A"), (none, "B")):
        engine.put_voucher(Voucher(code=code))
        engine.redeem(code, redemption_id="order")
    assert [each.code for each in scan_vouchers(one)] == [each.code for each in scan_redemptions(one)] == ["A"]
    assert [each.code for each in scan_vouchers(none)] == [each.code for each in scan_redemptions(none)] == ["B"]


def test_a_partition_that_refuses_the_codes_of_others(make_engine: Callable[..., VoucherSessions]) -> None:
    def first_word(code: str) -> str:
        return {"A-1": "A"}[code]

    make_engine().put_voucher(Voucher(code="B"))
    engine = make_engine(partition=first_word)
    engine.put_voucher(Voucher(code="A-1"))
    assert [each.code for each in scan_vouchers(engine)] == ["A-1"]


def test_prefixes_that_begin_alike_or_are_patterns(make_engine: Callable[..., VoucherSessions]) -> None:
    prefixes = ["vs", "v", "vs:", "vs::", "v*", "v?", "[v]s", "v\\", "vs*", "*", "ünï"]
    engines = {name: make_engine(prefix=name) for name in prefixes}
    for name, engine in engines.items():
        engine.put_voucher(Voucher(code=f"of {name}"))
        engine.redeem(f"of {name}", redemption_id="order")
    for name, engine in engines.items():
        assert [each.code for each in scan_vouchers(engine)] == [f"of {name}"]
        assert [each.code for each in scan_redemptions(engine)] == [f"of {name}"]


FOREIGN_KEYS = [
    *(
        b"vs:{}",
        b"vs:{ }",
        b"vs:{\n}",
        b"vs:{\xff}",
        b"vs:{%}x}",
        b"vs:{" + b"x" * 257 + b"}",
        b"vs:{{A}}",
        b"vs:{A}{B}",
    ),
    *(b"vs:{A}{B}{C}", b"vs:A", b"vs:", b"vs:{A", b"vs:A}", b"vs:{%7b}", b"vs:{%2}", b"vs:{A}:redemption:", b"vs:{%}"),
    *(b"vs:{A}:redemption:\xff", b"vs:{A}:redemption: ", b"vs:{A}:redemption:" + b"x" * 257, b"vs:{}:redemption:x"),
    *(b"vs:{A}:redemptions:x", b"vs:{A}x:redemption:x", b"vs:{A}:other:redemption:x", b"vs:partition", b"vs:probe{0}"),
]


def test_other_keys_under_the_prefix_are_ignored(engine: VoucherSessions, backend: Backend) -> None:
    engine.put_voucher(Voucher(code="A", credits=100))
    engine.redeem("A", credits=1, redemption_id="order")
    engine.validate("A", credits=1, session=lock("ends with a brace}"))
    engine.validate("A", credits=1, session=lock("x}:redemption:x"))
    engine.validate("A", credits=1, session=lock(":redemption:x"))
    for key in FOREIGN_KEYS:
        backend.admin.set(key, "something else")
    assert [each.code for each in scan_vouchers(engine)] == ["A"]
    assert [each.id for each in scan_redemptions(engine)] == ["order"]
    assert [each.id for each in scan_redemptions(engine, "A")] == ["order"]
    for key in FOREIGN_KEYS:
        assert backend.admin.get(key) == b"something else"


@pytest.mark.parametrize(("scan", "key"), [(scan_vouchers, "vs:{A}"), (scan_redemptions, "vs:{A}:redemption:order")])
def test_a_damaged_value_raises_an_error(
    engine: VoucherSessions, backend: Backend, scan: Callable[[VoucherSessions], Iterator[object]], key: str
) -> None:
    engine.put_voucher(Voucher(code="A"))
    engine.redeem("A", redemption_id="order")
    value: Any = backend.admin.get(key)
    backend.admin.set(key, b"2" + value[1:])
    with pytest.raises(UnknownFormat, match=r"^get_(voucher|redemption) of 'A': a stored value has format 2"):
        list(scan(engine))
    for write in (
        lambda: backend.admin.set(key, "hello"),
        lambda: backend.admin.hset(key, "field", "value"),
    ):
        backend.admin.delete(key)
        write()
        with pytest.raises(CorruptState, match="a key of 'A' contains a value that this library did not write"):
            list(scan(engine))


@pytest.mark.parametrize("batch", [None, 0, -1, 10_001, 1.5, "10", True])
def test_bad_input_is_refused_at_once(engine: VoucherSessions, batch: object) -> None:
    for scan in (scan_vouchers_any, scan_redemptions_any):
        with pytest.raises(InvalidRequest) as refused:
            scan(engine, batch=batch)
        assert refused.value.field == "batch"
        with pytest.raises(InvalidRequest) as refused:
            scan(object())
        assert refused.value.field == "engine"
    with pytest.raises(InvalidRequest) as refused:
        scan_redemptions_any(engine, " ")
    assert refused.value.field == "code"


def test_the_loader_is_not_asked(backend: Backend) -> None:
    asked: list[str] = []
    with backend.client() as client, VoucherSessions(client, loader=asked.append) as engine:
        engine.put_voucher(Voucher(code="A"))
        engine.redeem("A", redemption_id="order")
        engine.delete_voucher("A")
        assert not list(scan_vouchers(engine))
        assert len(list(scan_redemptions(engine))) == 1
    assert not asked


def test_a_server_that_does_not_tell_whether_it_was_restarted(
    engine: VoucherSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection fails, or INFO is forbidden: the scan goes on without it."""

    def unanswered(*_: object) -> object:
        raise redis.ConnectionError

    engine.put_voucher(Voucher(code="A"))
    monkeypatch.setattr(engine._transport, "ask", unanswered)
    assert [each.code for each in scan_vouchers(engine)] == ["A"]


def on_real_servers(backend: Backend) -> None:
    if backend.name == "fakeredis":
        pytest.skip("fakeredis has no hash table, and its SCAN returns a snapshot")


def test_exactly_once_while_the_table_grows_and_shrinks(engine: VoucherSessions, backend: Backend) -> None:
    """Thousands of keys come and go, so that the server rehashes its table several times during the walk."""
    on_real_servers(backend)
    staying = [f"stays-{at}" for at in range(1500)]
    put_vouchers(engine, (Voucher(code=code) for code in staying))
    seen: Counter[str] = Counter()
    for number, state in enumerate(scan_vouchers(engine, batch=10)):
        seen[state.code] += 1
        if number % 150 == 75:
            coming = [f"vs:{{comes-{number}-{at}}}" for at in range(4000)]
            value: Any = backend.admin.get("vs:{stays-0}")
            backend.admin.mset(dict.fromkeys(coming, value))
        elif number % 150 == 149:
            backend.admin.delete(*coming)
    assert max(seen.values()) == 1
    assert set(staying) <= set(seen)


def test_what_is_deleted_or_expires_meanwhile_is_no_error(engine: VoucherSessions, backend: Backend) -> None:
    put_vouchers(engine, (Voucher(code=str(at), credits=10) for at in range(80)))
    import_redemptions(engine, ({"code": str(at), "id": "order", "credits": 1} for at in range(80)), count=True)
    vouchers, redemptions = scan_vouchers(engine, batch=10), scan_redemptions(engine, batch=10)
    first, _ = next(vouchers), next(redemptions)
    for at in range(80):
        if at % 2 and str(at) != first.code:
            engine.delete_voucher(str(at))
            backend.admin.delete(f"vs:{{{at}}}:redemption:order")
    left = {str(at) for at in range(0, 80, 2)}
    yielded = {first.code, *(each.code for each in vouchers)}
    assert left <= yielded
    assert left <= {each.code for each in redemptions} | {_.code}


def test_one_call_looks_at_no_more_than_a_batch(
    engine: VoucherSessions, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a call of SCAN nor a pipeline is longer, however many keys there are."""
    put_vouchers(engine, (Voucher(code=str(at)) for at in range(300)))
    sizes: list[int] = []
    transport = engine._transport
    run_all = transport.run_all

    def counting(calls: Any) -> Any:
        sizes.append(len(calls))
        return run_all(calls)

    monkeypatch.setattr(transport, "run_all", counting)
    before = backend.admin.info("commandstats") if not backend.is_fake else {}
    assert sum(1 for _ in scan_vouchers(engine, batch=50)) == 300
    assert max(sizes) <= CHUNK
    if not backend.is_fake:
        after: Any = backend.admin.info("commandstats")
        scans = after["cmdstat_scan"]["calls"] - before.get("cmdstat_scan", {"calls": 0})["calls"]
        assert 300 / 50 <= scans <= 3 * 512 / 50


@pytest.mark.parametrize("decode", [False, True])
def test_on_a_cluster_all_servers_are_scanned_also_while_a_slot_is_open(decode: bool) -> None:
    with running_two_primaries() as cluster:
        codes = {str(code) for code in range(30)}
        with redis.RedisCluster(HOST, cluster.nodes[0].port, decode_responses=decode) as client:
            engine = VoucherSessions(client)
            for code in codes:
                engine.put_voucher(Voucher(code=code))
            assert Counter(each.code for each in scan_vouchers(engine)) == dict.fromkeys(codes, 1)
            cluster.move_slot_of("empty", between=lambda: found_again(engine, codes))


def found_again(engine: VoucherSessions, codes: set[str]) -> None:
    """The scan finds all, and has seen on which servers the slot is open."""
    assert Counter(each.code for each in scan_vouchers(engine)) == dict.fromkeys(codes, 1)
    assert len(scans._view(engine).slots_on_the_move) == 2
