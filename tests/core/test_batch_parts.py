"""The parts in which a batch is sent: at most one change of a key in each, and the calls of a voucher in their order."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from voucher_sessions import Voucher
from voucher_sessions._core import batch
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs

verbs = Verbs(Keys("vs"), None)
CODES, SESSION_KEYS, IDS = st.sampled_from("ABC"), st.sampled_from(["k1", "k2"]), st.sampled_from(["o1", "o2"])


def session(key: str) -> dict[str, object]:
    return {"type": "LOCK", "key": key}


CALLS: st.SearchStrategy[Call[Any]] = st.one_of(
    st.builds(lambda code: verbs.put_voucher(Voucher(code=code), None), CODES),
    st.builds(verbs.delete_voucher, CODES),
    st.builds(verbs.get_voucher, CODES),
    st.builds(lambda code, key: verbs.validate(code, 0, 0, session(key)), CODES, SESSION_KEYS),
    st.builds(lambda code: verbs.validate(code, 0, 0, None), CODES),
    st.builds(verbs.release, CODES, SESSION_KEYS),
    st.builds(lambda code, key, id_: verbs.redeem(code, 1, 0, key, id_, "raise"), CODES, SESSION_KEYS, IDS),
    st.builds(lambda code, id_: verbs.rollback(code, id_, None, None, None), CODES, IDS),
    st.builds(lambda code, id_: verbs.rollback(code, id_, 1, None, "r1"), CODES, IDS),
    st.builds(lambda code, id_: verbs.adjust(code, 1, 0, 0, id_), CODES, IDS),
    st.builds(lambda code, key: verbs.extend(code, key, None, None), CODES, SESSION_KEYS),
    st.builds(lambda key: verbs.release_stack(["A", "B"], key), SESSION_KEYS),
)


@given(st.lists(CALLS, max_size=25))
def test_parts(calls: list[Call[Any]]) -> None:
    parts = batch.split(calls)
    assert sorted(at for part in parts for at in part) == list(range(len(calls)))
    assert all(parts), "no part is empty"
    for part in parts:
        changed = [key for at in part if calls[at].changes for key in calls[at].changed_keys]
        assert len(changed) == len(set(changed))
    place = {at: number for number, part in enumerate(parts) for at in part}
    for earlier, later in combinations(range(len(calls)), 2):
        if set(calls[earlier].codes) & set(calls[later].codes):
            assert place[earlier] <= place[later]
    assert all(part == sorted(part) for part in parts)


def test_every_changing_verb_names_the_keys_that_it_changes() -> None:
    for call in (
        verbs.put_voucher(Voucher(code="A"), None),
        verbs.delete_voucher("A"),
        verbs.validate("A", 0, 0, session("k")),
        verbs.redeem("A", 1, 0, None, None, "raise"),
        verbs.release("A", "k"),
        verbs.rollback("A", "o", None, None, None),
        verbs.rollback("A", "o", 1, None, None),
        verbs.adjust("A", 1, 0, 0, None),
        verbs.extend("A", "k", None, None),
    ):
        assert call.changed_keys, call


def test_calls_without_a_key_in_common_are_sent_together() -> None:
    calls = [verbs.validate("A", 0, 0, session(f"k{at}")) for at in range(100)]
    assert batch.split(calls) == [list(range(100))]
    assert batch.split([]) == []
