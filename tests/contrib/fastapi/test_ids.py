"""The ids of redemptions: one spelling for each, and nothing else is one."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrib.fastapi.shop import Shop
from voucher_sessions.contrib.fastapi.ids import RedemptionRef, read_id

ODD = ["a/b", "ä", "\N{PARTY POPPER}", '"', "\\", "\0", "a b", "r_", "%2F", "x" * 256]
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256).filter(str.strip)


@given(texts, st.lists(texts, min_size=1, max_size=30, unique=True))
def test_an_id_contains_what_finds_the_redemption(redemption_id: str, codes: list[str]) -> None:
    ref = RedemptionRef(redemption_id, tuple(sorted(codes)))
    for each in (ref, *ref.members):
        assert read_id(each.text) == each
        assert each.text.isascii()
        assert set(each.text) & set("/?#%") == set()


def test_odd_texts() -> None:
    ref = RedemptionRef(ODD[0], tuple(sorted(ODD)))
    assert read_id(ref.text) == ref
    assert [each.code for each in ref.members] == sorted(ODD)
    assert [ref.member(code).code for code in ODD] == ODD
    assert {each.parent for each in ref.members} == {ref}
    assert ref.is_parent
    assert ref.parent is None


def encoded(json: str) -> str:
    return "r_" + urlsafe_b64encode(json.encode()).decode().rstrip("=")


def test_the_encoding_is_the_one_of_the_ids() -> None:
    assert encoded('["o1",["A"],null]') == RedemptionRef("o1", ("A",)).text
    assert RedemptionRef("o1", ("A",)).rollback_text == "r" + encoded('["o1",["A"],null]')


WRONG = [
    *("", "r_", "r_x", "x", "order-1", "rr_x", "r_ä", "r_\udcff", "rf_0123456789abcdef01234567", "r_" + "A" * 50_000),
    *map(encoded, ("", "null", "[]", "{}", '"o1"', "1", "[" * 10_000, "[1,2,3]", '["o1"]', '["o1","A",null]')),
    *map(encoded, ('["o1",[],null]', '["o1",["A"]]', '["o1",["A"],null,null]', '["o1",["A","A"],null]')),
    *map(encoded, ('["o1",["A"],0]', '["o1",["A","B"],2]', '["o1",["A","B"],-1]', '["o1",["A","B"],true]')),
    *map(encoded, ('["o1",["A","B"],"0"]', '["o1",["A","B"],0.0]', '["",["A"],null]', '["o1",[" "],null]')),
    *map(
        encoded,
        (f'["o1",{["A"] * 31},null]'.replace("'", '"'), '["o1",["\\ud800"],null]', f'["{"x" * 257}",["A"],null]'),
    ),
    *map(encoded, ('["o1", ["A"], null]', '["o1",["\\u0041"],null]', '["o1",["A"],null] ')),  # another spelling
    encoded('["o1",["B","A"],null]'),  # not sorted
    encoded('["o1",["A"],null]').removeprefix("r_"),
    encoded('["o1",["A"],null]') + "=",
    encoded('["o1",["A"],null]') + "*",
    "r" + encoded('["o1",["A"],null]'),
]


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_text_that_is_not_an_id(text: str) -> None:
    assert read_id(text) is None


@pytest.mark.parametrize("text", ["r_x", "x", "rr_x", "rf_0123456789abcdef01234567", encoded('["o1",["A","A"],null]')])
def test_a_text_that_is_not_an_id_is_not_found(text: str, shop: Shop) -> None:
    for error in (shop.get(text, 404), shop.roll_back(text, 404), shop.roll_back_all(text, 404)):
        assert (error["key"], error["resource_type"]) == ("not_found", "redemption")


def test_the_id_of_a_redemption_that_does_not_exist_is_not_found(shop: Shop) -> None:
    single, several = RedemptionRef("o1", ("A",)), RedemptionRef("o1", ("A", "B"))
    for error in (
        shop.get(single.text, 404),
        shop.get(several.text, 404),
        shop.get(several.members[1].text, 404),
        shop.roll_back(single.text, 404),
        shop.roll_back_all(several.text, 404),
    ):
        assert (error["key"], error["resource_type"]) == ("not_found", "redemption")
