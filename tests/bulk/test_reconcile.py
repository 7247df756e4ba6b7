"""DESIGN.md 3.22: ``reconcile`` finds every difference between the shop's rows and the receipts, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from behaviour.test_semantics import lock
from conftest import Backend

from bulk.conftest import CHUNK
from bulk.odd_texts import ODD_TEXTS
from voucher_sessions import InvalidRequest, Redemption, Voucher, VoucherSessions
from voucher_sessions.bulk import Difference, import_redemptions, put_vouchers, reconcile, scan_redemptions

reconcile_any: Any = reconcile  # takes what type checkers refuse


def kinds_of(differences: Iterator[Difference]) -> set[tuple[str, str, str]]:
    listed = [(each.kind, each.code, each.id) for each in differences]
    assert len(listed) == len(set(listed))
    return set(listed)


@pytest.fixture
def sold(engine: VoucherSessions) -> tuple[VoucherSessions, list[Redemption]]:
    """An engine, and the redemptions that were made with it."""
    for code in ("GIFT", "CARD", "ONCE"):
        engine.put_voucher(Voucher(code=code, credits=10_000, points=500))
    for at in range(8):
        engine.redeem("GIFT", credits=10 + at, redemption_id=f"order-{at}")
    engine.validate("CARD", credits=5, session=lock("cart"))
    engine.redeem("CARD", session="cart", redemption_id="order-0")
    engine.redeem_stack([{"code": "ONCE", "credits": 0}, {"code": "CARD", "points": 7}], redemption_id="stack")
    engine.rollback("GIFT", "order-1")
    engine.rollback("GIFT", "order-2", credits=4, rollback_id="r")
    return engine, list(scan_redemptions(engine))


def test_no_difference_is_invented(sold: tuple[VoucherSessions, list[Redemption]]) -> None:
    engine, rows = sold
    assert len(rows) == 11
    assert not list(reconcile(engine, rows))
    assert not list(reconcile(engine, (each.model_dump() for each in rows)))
    assert not list(reconcile(engine, (each.model_dump(mode="json") for each in rows)))
    assert not list(reconcile(engine, rows * 2))
    names = ("code", "id", "credits", "points", "rolled_back", "credits_rolled_back")
    assert not list(reconcile(engine, ({name: getattr(each, name) for name in names} for each in rows)))


def test_every_planted_difference_is_found(
    sold: tuple[VoucherSessions, list[Redemption]],
) -> None:
    engine, receipts = sold
    rows = {(each.code, each.id): each.model_dump() for each in receipts}
    del rows["GIFT", "order-0"], rows["CARD", "stack"]
    rows["GIFT", "lost"] = {"code": "GIFT", "id": "lost", "credits": 5, "points": 0}
    rows["NONE", "order-0"] = {"code": "NONE", "id": "order-0", "credits": 5, "points": 0}
    rows["GIFT", "order-3"]["credits"] += 1
    rows["ONCE", "stack"]["points"] = 1
    rows["GIFT", "order-1"] |= {"rolled_back": False, "credits_rolled_back": 0}
    rows["GIFT", "order-2"]["credits_rolled_back"] = 3
    rows["GIFT", "order-4"]["rolled_back"] = True
    rows["GIFT", "order-5"]["credits_rolled_back"] = 15
    assert kinds_of(reconcile(engine, iter(rows.values()))) == {
        ("no_row", "GIFT", "order-0"),
        ("no_row", "CARD", "stack"),
        ("no_receipt", "GIFT", "lost"),
        ("no_receipt", "NONE", "order-0"),
        ("amounts", "GIFT", "order-3"),
        ("amounts", "ONCE", "stack"),
        ("rolled_back", "GIFT", "order-1"),
        ("rolled_back", "GIFT", "order-2"),
        ("rolled_back", "GIFT", "order-4"),
        ("rolled_back", "GIFT", "order-5"),
    }


def test_a_difference_has_both_sides(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    for id_, credits in (("amounts", 10), ("no-row", 11), ("back", 12)):
        engine.redeem("GIFT", credits=credits, redemption_id=id_)
    engine.rollback("GIFT", "back")
    rows = [{"code": "GIFT", "id": id_, "credits": 12} for id_ in ("amounts", "no-receipt", "back")]
    found = {each.kind: each for each in reconcile(engine, rows)}
    sides = {
        kind: (each.row and each.row.credits, each.receipt and each.receipt.credits) for kind, each in found.items()
    }
    assert sides == {"amounts": (12, 10), "no_row": (None, 11), "no_receipt": (12, None), "rolled_back": (12, 12)}
    assert found["no_row"].receipt == engine.get_redemption("GIFT", "no-row")
    assert found["amounts"].receipt == engine.get_redemption("GIFT", "amounts")
    for each in found.values():
        assert Difference.model_validate_json(each.model_dump_json()) == each


# What a row says of rollbacks, and whether that agrees with a receipt of 10 credits and 2 points.
NOTHING, WHOLE, PART, ALL_IN_PARTS = "nothing", "whole", "part", "all in parts"
SAYINGS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {NOTHING}),
    ({"rolled_back": False}, {NOTHING}),
    ({"credits_rolled_back": 0, "points_rolled_back": 0}, {NOTHING}),
    ({"rolled_back": True}, {WHOLE}),
    ({"rolled_back": True, "credits_rolled_back": 4}, {WHOLE}),
    ({"rolled_back": None, "credits_rolled_back": 4}, {PART}),
    ({"rolled_back": False, "credits_rolled_back": 4}, {PART}),
    ({"credits_rolled_back": 10, "points_rolled_back": 2}, {WHOLE, ALL_IN_PARTS}),
    ({"rolled_back": False, "credits_rolled_back": 10, "points_rolled_back": 2}, {ALL_IN_PARTS}),
    ({"credits_rolled_back": 10}, set()),
]


def test_what_was_rolled_back(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=1000, points=1000))
    for id_ in (NOTHING, WHOLE, PART, ALL_IN_PARTS):
        engine.redeem("GIFT", credits=10, points=2, redemption_id=id_)
    engine.rollback("GIFT", WHOLE)
    engine.rollback("GIFT", PART, credits=4)
    engine.rollback("GIFT", ALL_IN_PARTS, credits=10)
    engine.rollback("GIFT", ALL_IN_PARTS, points=2)
    ids = {NOTHING, WHOLE, PART, ALL_IN_PARTS}
    for says, agrees in SAYINGS:
        rows = [{"code": "GIFT", "id": id_, "credits": 10, "points": 2, **says} for id_ in ids]
        differing = kinds_of(reconcile(engine, rows))
        assert differing == {("rolled_back", "GIFT", id_) for id_ in ids - agrees}, says


def test_a_rollback_of_a_redemption_without_amounts_is_a_difference(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="ONCE", quantity=1))
    engine.redeem("ONCE", redemption_id="order")
    engine.rollback("ONCE", "order")
    for says in ({}, {"credits_rolled_back": 0, "points_rolled_back": 0}):
        assert kinds_of(reconcile(engine, [{"code": "ONCE", "id": "order", **says}])) == {
            ("rolled_back", "ONCE", "order")
        }


@pytest.mark.parametrize("before", [{}, {"credits": 4}, {"credits": 10, "points": 2}], ids=["whole", "part", "all"])
def test_a_redemption_that_the_shop_does_not_want(engine: VoucherSessions, before: dict[str, Any]) -> None:
    """Rolled back without being recorded, it is still a redemption that the shop does not know."""
    engine.put_voucher(Voucher(code="GIFT", credits=100, points=20))
    engine.put_voucher(Voucher(code="ONCE", quantity=1))
    engine.redeem("GIFT", credits=10, points=2, redemption_id="order")
    engine.redeem("ONCE", redemption_id="order")
    if before:
        engine.rollback("GIFT", "order", **before)
    unwanted = list(reconcile(engine, []))
    assert {(each.kind, each.code) for each in unwanted} == {("no_row", "GIFT"), ("no_row", "ONCE")}
    for each in unwanted:
        engine.rollback(each.code, each.id)
    assert kinds_of(reconcile(engine, [])) == {("no_row", "GIFT", "order"), ("no_row", "ONCE", "order")}
    recorded = [each.receipt.model_dump() | {"rolled_back": True} for each in unwanted if each.receipt]
    assert not list(reconcile(engine, recorded))
    short = [
        {"code": row["code"], "id": "order", "credits": row["credits"], "points": row["points"]} for row in recorded
    ]
    assert not list(reconcile(engine, [row | {"rolled_back": True} for row in short]))


def test_the_same_row_with_other_amounts(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    engine.redeem("GIFT", credits=10, redemption_id="order")
    rows = [{"code": "GIFT", "id": "order", "credits": credits} for credits in (10, 11)]
    assert kinds_of(reconcile(engine, rows)) == {("amounts", "GIFT", "order")}


def test_a_generator_of_many_rows(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=10_000))
    rows = [{"code": "GIFT", "id": str(at), "credits": 1} for at in range(1, 50)]
    import_redemptions(engine, rows, count=True)
    taken: list[int] = []

    def recorded() -> Iterator[dict[str, Any]]:
        for each in [{**rows[0], "id": "lost"}, *rows[:-1]]:
            taken.append(1)
            yield each

    differences = reconcile(engine, recorded())
    assert next(differences).kind == "no_receipt"
    assert len(taken) == CHUNK, "it reads on only as far as needed"
    assert [(each.kind, each.id) for each in differences] == [("no_row", "49")]


def test_nothing_at_all(engine: VoucherSessions) -> None:
    assert not list(reconcile(engine, []))


@pytest.mark.parametrize("rows", [None, 5, "order", {"id": "order"}])
def test_bad_input_is_refused_at_once(engine: VoucherSessions, rows: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        reconcile_any(engine, rows)
    assert refused.value.field == "rows"
    with pytest.raises(InvalidRequest) as refused:
        reconcile_any(object(), [])
    assert refused.value.field == "engine"


def test_a_bad_row_is_named(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT"))
    engine.redeem("GIFT", redemption_id="order")
    rows: list[dict[str, Any]] = [
        {"code": "GIFT", "id": "order"},
        {"code": "GIFT", "id": "b", "redeemed_at": datetime.now(UTC).replace(tzinfo=None)},
    ]
    with pytest.raises(InvalidRequest) as refused:
        list(reconcile(engine, rows))
    assert refused.value.field == "rows.1.redeemed_at"


@pytest.mark.parametrize(
    ("prefix", "partition"),
    [("vs", None), ("v*[s]?-^\\", lambda code: "one"), ("ünï:", lambda code: code[-1:] + "."), ("%7B", None)],
    ids=["plain", "pattern", "unicode", "percent"],
)
def test_odd_codes_ids_and_prefixes(
    make_engine: Callable[..., VoucherSessions], partition: Callable[[str], str] | None, prefix: str
) -> None:
    engine = make_engine(prefix=prefix, partition=partition)
    for name in (prefix + ":", prefix[:-1] + "x", prefix[:-1] or "v"):
        other = make_engine(prefix=name)
        other.put_voucher(Voucher(code="A"))
        other.redeem("A", redemption_id="of another prefix")
    put_vouchers(engine, (Voucher(code=code, credits=100) for code in ODD_TEXTS))
    rows = [{"code": code, "id": ODD_TEXTS[-at], "credits": at} for at, code in enumerate(ODD_TEXTS)]
    import_redemptions(engine, rows, count=True)
    assert not list(reconcile(engine, rows))
    assert kinds_of(reconcile(engine, [])) == {("no_row", each["code"], each["id"]) for each in rows}


def test_other_keys_under_the_prefix_are_ignored(engine: VoucherSessions, backend: Backend) -> None:
    engine.put_voucher(Voucher(code="GIFT"))
    redeemed = engine.redeem(
        "GIFT", redemption_id="order", session={"key": "x}:redemption:y"}, if_session_missing="redeem"
    )
    for key in (
        b"vs:{GIFT}:redemption:",
        b"vs:{}:redemption:x",
        b"vs:{GIFT}:redemption:\xff",
        b"vs:{\xff}:redemption:x",
    ):
        backend.admin.set(key, "something else")
    backend.admin.set(b"vs:{GIFT}:redemption:" + b"x" * 257, "something else")
    assert not list(reconcile(engine, [redeemed]))
