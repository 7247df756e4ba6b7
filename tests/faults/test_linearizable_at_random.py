"""The checker tested with histories of random executions of the model, and against slower, exhaustive searches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from support.model import Books

from faults.history import Op
from faults.linearizable import Config, Search, check, together
from faults.model_answers import FOREVER, agrees, answer, essence

MS = 1_000_000
DAY = 86_400_000
LIMITS = {"limit": [1, 10, 0], "used": None, "if_exists": "update"}

KEYS = st.sampled_from(["k", "z"])
IDS = st.sampled_from(["o", "p"])
AMOUNT = st.integers(0, 6)
NEEDS = st.sampled_from([["A"], ["B"], ["A", "B"]]).flatmap(
    lambda codes: st.tuples(*(st.tuples(st.just(code), AMOUNT, st.just(0)).map(list) for code in codes)).map(list)
)
UNNAMED = st.sampled_from(["A", "B"]).map(lambda code: [[code, None, None]])
CODES = st.sampled_from([["A"], ["B"]])
ARGS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "put_voucher": {
        "codes": CODES,
        "limit": st.tuples(st.sampled_from([None, 1, 2]), st.integers(4, 10), st.just(0)).map(list),
        "used": st.sampled_from([None, None, [0, 1, 0]]),
        "if_exists": st.sampled_from(["update", "update", "keep", "raise"]),
    },
    "validate": {
        "needs": NEEDS,
        "key": st.none() | KEYS,
        "ttl_ms": st.sampled_from([20, 60, DAY]),
        "release": st.just([]),
    },
    "redeem": {
        "needs": NEEDS | UNNAMED,
        "key": st.none() | KEYS,
        "id": IDS,
        "if_missing": st.sampled_from(["raise", "redeem"]),
    },
    "release": {"codes": CODES, "key": KEYS},
    "rollback": {"codes": CODES, "id": IDS},
    "adjust": {
        "codes": CODES,
        "changes": st.tuples(st.sampled_from([1, 0, -1]), st.sampled_from([2, -3]), st.just(0)).map(list),
        "adjustment_id": IDS,
    },
    "extend": {"codes": CODES | st.just(["A", "B"]), "key": KEYS, "ttl_ms": st.sampled_from([20, 60, DAY])},
    "get_session": {"codes": CODES, "key": KEYS},
    "get_redemption": {"codes": CODES, "id": IDS},
    "list_sessions": {"codes": CODES, "limit": st.just(100)},
    "get_voucher": {"codes": CODES},
    "delete_voucher": {"codes": CODES},
}
PARTS = st.tuples(st.integers(1, 4), st.just(0)).map(list)
PARTIAL_ROLLBACK = {"codes": CODES, "id": IDS, "part": PARTS, "rollback_id": IDS}
CALLS = st.one_of(
    [
        st.tuples(st.just(verb), st.fixed_dictionaries(args))
        for verb, args in [*ARGS.items(), ("rollback", PARTIAL_ROLLBACK)]
    ]
)
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def execute(calls: Sequence[tuple[str, dict[str, Any]]], data: st.DataObject, *, width: int, lost: bool) -> list[Op]:
    """What callers see of an execution in which each call takes effect somewhere between its begin and its end.

    ``width``: how many ms a call may begin before its moment and end after it, which come 4 ms one after the other.
    ``lost``: some replies are, and some calls too.
    """
    books, history = Books(), []
    begun = [("put_voucher", {**LIMITS, "codes": [code]}) for code in "AB"]
    for at, (verb, args) in enumerate([*begun, *calls]):
        moment = 100 + 4 * at
        begin = moment - data.draw(st.integers(0, width)) if at > 1 else moment
        fate = (
            data.draw(st.sampled_from(["reply", "reply", "reply", "no reply", "no call"]))
            if lost and at > 1
            else "reply"
        )
        ttl = {"ttl_ms": args["ttl_ms"] * MS} if "ttl_ms" in args else {}
        made = Op("w", at, verb, args, begin * MS, (moment + data.draw(st.integers(1, width))) * MS)
        seen = None
        if fate != "no call":
            seen = answer(books, replace(made, args={**args, **ttl}), moment * MS)
            give_ttl(books, made, moment)
        history.append(replace(made, seen=seen) if fate == "reply" else replace(made, end=None))
    return data.draw(st.permutations(history))


def give_ttl(books: Books, made: Op, moment: int) -> None:
    """The model was given no end for the lock: here it is, if the call locked."""
    if made.verb in ("validate", "extend") and made.args["key"] is not None:
        for code in made.codes:
            book = books.vouchers.get(code)
            lock = book.sessions.get(made.args["key"]) if book else None
            if book and lock and lock.expires_at >= FOREVER:
                book.sessions[made.args["key"]] = replace(lock, expires_at=(moment + made.args["ttl_ms"]) * MS)


@SETTINGS
@given(calls=st.lists(CALLS, max_size=14), data=st.data())
def test_every_execution_passes_with_any_overlap(calls: list[tuple[str, dict[str, Any]]], data: st.DataObject) -> None:
    check(execute(calls, data, width=13, lost=True))


def tampered(history: Sequence[Op], data: st.DataObject) -> list[Op]:
    """With one wrong reply: another one of the same verb's, or its own with a figure, a flag or a name changed."""
    answered = [each for each in history if each.end is not None]
    wrongs = [
        (each, seen)
        for each in answered
        for seen in wrong(each.seen)
        if essence(each, seen) != essence(each, each.seen)
    ]
    assume(wrongs)
    chosen, seen = data.draw(st.sampled_from(wrongs))
    return [replace(each, seen=seen) if each is chosen else each for each in history]


def wrong(seen: Any) -> list[Any]:
    """Replies that differ from this one in one place."""
    if isinstance(seen, bool):
        return [not seen]
    if isinstance(seen, int):
        return [seen + 1, seen - 1]
    if isinstance(seen, str):
        return [seen + "!"]
    if seen is None:
        return ["x"]
    if isinstance(seen, dict):
        changed = [{**seen, name: other} for name, value in seen.items() for other in wrong(value)]
        return changed or [{"x": [0, 0]}]
    changed_lists = [[*seen[:at], other, *seen[at + 1 :]] for at, value in enumerate(seen) for other in wrong(value)]
    return changed_lists or [["x"]]


@SETTINGS
@given(calls=st.lists(CALLS, max_size=10), data=st.data())
def test_in_sequential_histories_any_wrong_reply_fails(
    calls: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    lasting = [(verb, {**args, "ttl_ms": DAY} if "ttl_ms" in args else args) for verb, args in calls]
    history = execute(lasting, data, width=1, lost=False)
    check(history)
    with pytest.raises(AssertionError, match="no order explains"):
        check(tampered(history, data))


def explains(order: Sequence[Op]) -> bool:
    """Whether the model gives these results in this order."""
    for at, each in enumerate(order):
        if any(later.end is not None and later.end < each.begin for later in order[at + 1 :]):
            return False
    books = Books()
    for each in order:
        answered = answer(books, each, 0)
        if each.end is not None and not agrees(each, answered, each.seen):
            return False
    return True


def some_order_explains(history: Sequence[Op]) -> bool:
    """By trying all, with the calls of unknown outcome and without them."""
    known, unknown = [each for each in history if each.end is not None], [each for each in history if each.end is None]
    subsets = [[each for at, each in enumerate(unknown) if bits >> at & 1] for bits in range(2 ** len(unknown))]
    return any(explains(order) for subset in subsets for order in permutations([*known, *subset]))


@SETTINGS
@given(calls=st.lists(CALLS, min_size=2, max_size=4), data=st.data(), wrong=st.booleans())
def test_the_checker_agrees_with_trying_all_orders(
    calls: list[tuple[str, dict[str, Any]]], data: st.DataObject, wrong: bool
) -> None:
    lasting = [(verb, {**args, "ttl_ms": DAY} if "ttl_ms" in args else args) for verb, args in calls]
    history = execute(lasting, data, width=13, lost=True)
    if wrong:
        history = tampered(history, data)
    explained = some_order_explains(history)
    event(f"wrong: {wrong}, explained: {explained}")
    assert explained or wrong
    if explained:
        check(history)
    else:
        with pytest.raises(AssertionError, match="no order explains"):
            check(history)


class ExhaustiveSearch(Search):
    """The same search without its shortcuts."""

    def successors(self, config: Config) -> Iterator[Config]:
        found, latest = self.candidates(config)
        yield from (after for at in found if (after := self.known_call(config, at)) is not None)
        yield from (after for each in self.events(config, latest) if (after := self.happen(config, each, latest)))


@SETTINGS
@given(calls=st.lists(CALLS, min_size=2, max_size=8), data=st.data(), wrong=st.booleans())
def test_the_checkers_shortcuts_skip_no_order(
    calls: list[tuple[str, dict[str, Any]]], data: st.DataObject, wrong: bool
) -> None:
    history = execute(calls, data, width=25, lost=True)
    if wrong:
        history = tampered(history, data)
    for ops in together(history):
        explained = ExhaustiveSearch(ops, Books(), 10_000).succeeds()
        event(f"wrong: {wrong}, explained: {explained}")
        assert Search(ops, Books(), 10_000).succeeds() == explained
