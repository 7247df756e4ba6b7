"""The checker of histories: some must pass, some must fail, and on small ones it agrees with trying all orders."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, permutations
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from books import Books
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from faults.answers import FOREVER, agrees, answer, essence
from faults.history import Op, Recorder, load
from faults.linearizable import TooManyOrders, check
from voucher_sessions import AsyncVoucherSessions, LimitExceeded, OutcomeUnknown, Redeemable, Voucher, VoucherSessions

MS = 1_000_000
DAY = 86_400_000


NUMBERS = count()
DEFAULTS: dict[str, dict[str, Any]] = {
    "put_voucher": {"limit": [1, 10, 0], "used": None},
    "validate": {"needs": [["A", 0, 0]], "key": "k", "ttl_ms": DAY, "release": []},
    "redeem": {"needs": [["A", None, None]], "key": None, "id": "o", "if_missing": "raise"},
    "release": {"key": "k"},
    "rollback": {"id": "o"},
    "get_redemption": {"id": "o"},
    "list_sessions": {"limit": 100},
}


def op(verb: str, begin: int, end: int | None, seen: Any = None, **args: Any) -> Op:
    """A call from begin to end, in ms; end None: its outcome is unknown."""
    all_args = {"codes": ["A"], **DEFAULTS.get(verb, {}), **args}
    return Op("w", next(NUMBERS), verb, all_args, begin * MS, None if end is None else end * MS, seen)


PUT = op("put_voucher", 0, 1, [[1, 0, 0], [10, 0, 0], [0, 0, 0]])
USED_UP = {"error": "QuantityExceeded", "code": "A", "reason": "quantity_exceeded", "requested": 1, "available": 0}
HELD = {"reason": "quantity_exceeded", "held": True, "available": [0, 10, 0], "lock": None}


def grants(credits: int = 0) -> list[dict[str, Any]]:
    return [{"reason": None, "held": False, "available": [1, 10, 0], "lock": [credits, 0]}]


def took(credits: int = 0, key: str | None = None, rolled_back: bool = False, replayed: bool = False) -> list[Any]:
    return [[1, credits, 0, key, rolled_back, replayed]]


def state(used: int, locked: int, credits_used: int = 0, credits_locked: int = 0) -> list[list[int]]:
    return [[1, used, locked], [10, credits_used, credits_locked], [0, 0, 0]]


def given_back(replayed: bool = False) -> list[Any]:
    return [[1, 0, 0, replayed]]


NO_SESSION = {"error": "SessionNotFound", "code": "A", "codes": ["A"], "session_key": "k"}
MISSING = {"error": "RedemptionNotFound", "code": "A", "redemption_id": "o"}

EXPLAINED: dict[str, list[Op]] = {
    "nothing happened": [],
    "one refused of two at a time": [
        op("redeem", 2, 9, took(), id="x"),
        op("redeem", 2, 9, {**USED_UP, "locked_by_others": False}, id="y"),
    ],
    "a read beside a redemption sees it": [op("redeem", 2, 9, took()), op("get_voucher", 3, 4, state(1, 0))],
    "a read beside a redemption does not see it yet": [
        op("redeem", 2, 9, took()),
        op("get_voucher", 3, 4, state(0, 0)),
    ],
    "unknown that took effect": [op("redeem", 2, None), op("get_voucher", 4, 5, state(1, 0))],
    "unknown that took effect later": [
        op("redeem", 2, None),
        op("get_voucher", 4, 5, state(0, 0)),
        op("get_voucher", 6, 7, state(1, 0)),
    ],
    "unknown that never took effect": [
        op("redeem", 2, None, id="x"),
        op("redeem", 4, 5, took(), id="y"),
        op("get_redemption", 6, 7, {**MISSING, "redemption_id": "x"}, id="x"),
    ],
    "unknown, repeated and replayed": [op("redeem", 2, None), op("redeem", 4, 5, took(replayed=True))],
    "unknown, repeated and new": [op("redeem", 2, None), op("redeem", 4, 5, took())],
    "unknown override that came after its successor": [
        op("validate", 2, None, needs=[["A", 3, 0]]),
        op("validate", 4, 5, grants(5), needs=[["A", 5, 0]]),
        op("list_sessions", 6, 7, {"k": [3, 0]}),
    ],
    "two unknown, in the order that the reads tell": [
        op("validate", 2, None, needs=[["A", 3, 0]]),
        op("validate", 2, None, needs=[["A", 5, 0]]),
        op("list_sessions", 4, 5, {"k": [5, 0]}),
        op("list_sessions", 6, 7, {"k": [3, 0]}),
    ],
    "unknown deletion": [
        op("delete_voucher", 2, None),
        op("get_voucher", 4, 5, {"error": "VoucherNotFound", "code": "A", "codes": ["A"]}),
    ],
    "a lock that expired": [op("validate", 2, 3, grants(), ttl_ms=30), op("validate", 90, 91, grants(), key="z")],
    "a lock about to expire": [
        op("validate", 2, 3, grants(), ttl_ms=30),
        op("list_sessions", 31, 32, {"k": [0, 0]}),
        op("list_sessions", 32, 33, {}),
    ],
    "a lock that was prolonged": [
        op("validate", 2, 3, grants(), ttl_ms=30),
        op("validate", 20, 21, grants(), ttl_ms=60),
        op("list_sessions", 60, 61, {"k": [0, 0]}),
        op("list_sessions", 99, 100, {}),
    ],
    "an unknown lock that expired": [
        op("validate", 2, None, ttl_ms=30),
        op("list_sessions", 50, 51, {"k": [0, 0]}),
        op("list_sessions", 90, 91, {}),
    ],
    "a replay after the voucher is gone": [
        op("redeem", 2, 3, took()),
        op("delete_voucher", 4, 5, True),
        op("redeem", 6, 7, took(replayed=True)),
    ],
    "some of many sessions are listed": [
        op("put_voucher", 2, 3, [[2, 0, 0], [10, 0, 0], [0, 0, 0]], limit=[2, 10, 0]),
        op("validate", 4, 5, [{**grants()[0], "available": [2, 10, 0]}], key="k"),
        op("validate", 6, 7, grants(), key="z"),
        op("list_sessions", 8, 9, {"z": [0, 0]}, limit=1),
    ],
}

UNEXPLAINED: dict[str, list[Op]] = {
    "double grant": [op("validate", 2, 9, grants(), key="k"), op("validate", 2, 9, grants(), key="z")],
    "double spending": [op("redeem", 2, 9, took(), id="x"), op("redeem", 2, 9, took(), id="y")],
    "lost redemption": [op("redeem", 2, 3, took()), op("get_voucher", 4, 5, state(0, 0))],
    "lost receipt": [op("redeem", 2, 3, took()), op("get_redemption", 4, 5, MISSING)],
    "lost lock": [op("validate", 2, 3, grants()), op("redeem", 4, 5, NO_SESSION, key="k")],
    "replay told as new": [op("redeem", 2, 3, took()), op("redeem", 4, 5, took())],
    "new told as a replay": [op("redeem", 2, 3, took(replayed=True))],
    "replay with another amount": [
        op("redeem", 2, 3, took(4), needs=[["A", 4, 0]]),
        op("redeem", 4, 5, took(5, replayed=True)),
    ],
    "redeemed twice under one id": [op("redeem", 2, 9, took()), op("get_voucher", 3, 4, state(2, 0))],
    "stale read": [
        op("redeem", 2, 9, took()),
        op("get_voucher", 3, 4, state(1, 0)),
        op("get_voucher", 5, 6, state(0, 0)),
    ],
    "a refusal with nothing in the way": [op("redeem", 2, 3, {**USED_UP, "locked_by_others": False})],
    "held told as used up": [
        op("validate", 2, 3, grants()),
        op("redeem", 4, 5, {**USED_UP, "locked_by_others": False}),
    ],
    "resurrection after rollback": [
        op("validate", 2, 3, grants()),
        op("redeem", 4, 5, took(key="k"), key="k"),
        op("rollback", 6, 7, given_back()),
        op("list_sessions", 8, 9, {"k": [0, 0]}),
    ],
    "resurrection after release": [
        op("validate", 2, 3, grants()),
        op("release", 4, 5, [True]),
        op("list_sessions", 6, 7, {"k": [0, 0]}),
    ],
    "rolled back twice": [
        op("redeem", 2, 3, took()),
        op("rollback", 4, 9, given_back()),
        op("rollback", 4, 9, given_back()),
    ],
    "released twice": [
        op("validate", 2, 3, grants()),
        op("release", 4, 9, [True]),
        op("release", 4, 9, [True]),
    ],
    "deleted twice": [op("delete_voucher", 2, 9, True), op("delete_voucher", 2, 9, True)],
    "unknown that took effect twice": [
        op("validate", 2, None),
        op("list_sessions", 4, 5, {"k": [0, 0]}),
        op("release", 6, 7, [True]),
        op("list_sessions", 8, 9, {"k": [0, 0]}),
    ],
    "unknown seen and then unseen": [
        op("redeem", 2, None),
        op("get_voucher", 4, 5, state(1, 0)),
        op("get_voucher", 6, 7, state(0, 0)),
    ],
    "unknown that took effect before its begin": [op("get_voucher", 2, 3, state(1, 0)), op("redeem", 4, None)],
    "figures brought twice": [
        op("put_voucher", 2, 9, state(0, 0), used=[0, 0, 0]),
        op("get_voucher", 3, 4, state(1, 0)),
        op("redeem", 5, 6, took()),
        op("get_voucher", 10, 11, state(0, 0)),
    ],
    "a lock that outlives its TTL": [
        op("validate", 2, 3, grants(), ttl_ms=30),
        op("list_sessions", 50, 51, {"k": [0, 0]}),
    ],
    "a lock that ends before its TTL": [op("validate", 2, 3, grants(), ttl_ms=30), op("list_sessions", 15, 16, {})],
    "a lock that expired and is back": [
        op("validate", 2, 3, grants(), ttl_ms=30),
        op("list_sessions", 31, 32, {}),
        op("list_sessions", 34, 35, {"k": [0, 0]}),
    ],
    "half a stack": [
        op("put_voucher", 2, 3, state(0, 0), codes=["B"]),
        op("redeem", 4, 5, took() * 2, needs=[["A", 0, 0], ["B", 0, 0]]),
        op("get_voucher", 6, 7, state(0, 0), codes=["B"]),
    ],
    "an error of another kind": [op("redeem", 2, 3, {"error": "CorruptState", "text": ""})],
    "fewer sessions listed than asked for": [op("validate", 2, 3, grants()), op("list_sessions", 4, 5, {}, limit=1)],
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_one_that_executes_calls_one_at_a_time_could_have_told_passes(name: str) -> None:
    check([PUT, *EXPLAINED[name]])


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_what_no_order_of_the_calls_explains_fails(name: str) -> None:
    with pytest.raises(AssertionError, match="no order explains"):
        check([PUT, *UNEXPLAINED[name]])


def test_the_error_tells_the_first_reply_that_nothing_explains() -> None:
    later = [op("get_voucher", at, at + 1, state(0, 0)) for at in range(10, 50, 2)]
    with pytest.raises(AssertionError) as raised:
        check([PUT, *UNEXPLAINED["double grant"], *later])
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("no order explains what w#")
    assert "validate" in lines[0]
    assert lines[1] == "the furthest order ends with"
    assert "put_voucher" in lines[2]
    assert any(line.startswith("    though the books say: [{'reason': 'quantity_exceeded'") for line in lines)


def test_books_that_were_there_before() -> None:
    books = Books()
    answer(books, PUT, 0)
    check(EXPLAINED["unknown that took effect"], initial=books)
    with pytest.raises(AssertionError):
        check(EXPLAINED["unknown that took effect"])


def test_too_much_at_a_time_is_no_verdict() -> None:
    crowd = [op("validate", 2, None, key=f"k{at}") for at in range(20)]
    with pytest.raises(TooManyOrders):
        check([PUT, *crowd, op("get_voucher", 3, 4, state(0, 5))], steps=10)


# Histories made from random executions of the model, one call at a time at moments of their own.

KEYS = st.sampled_from(["k", "z"])
IDS = st.sampled_from(["o", "p"])
AMOUNT = st.integers(0, 6)
NEEDS = st.sampled_from([["A"], ["B"], ["A", "B"]]).flatmap(
    lambda codes: st.tuples(*(st.tuples(st.just(code), AMOUNT, st.just(0)).map(list) for code in codes)).map(list)
)
CODES = st.sampled_from([["A"], ["B"]])
ARGS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "put_voucher": {
        "codes": CODES,
        "limit": st.tuples(st.sampled_from([None, 1, 2]), st.integers(4, 10), st.just(0)).map(list),
        "used": st.sampled_from([None, None, [0, 1, 0]]),
    },
    "validate": {
        "needs": NEEDS,
        "key": st.none() | KEYS,
        "ttl_ms": st.sampled_from([20, 60, DAY]),
        "release": st.just([]),
    },
    "redeem": {
        "needs": NEEDS,
        "key": st.none() | KEYS,
        "id": IDS,
        "if_missing": st.sampled_from(["raise", "redeem"]),
    },
    "release": {"codes": CODES, "key": KEYS},
    "rollback": {"codes": CODES, "id": IDS},
    "get_redemption": {"codes": CODES, "id": IDS},
    "list_sessions": {"codes": CODES, "limit": st.just(100)},
    "get_voucher": {"codes": CODES},
    "delete_voucher": {"codes": CODES},
}
CALLS = st.one_of(*(st.tuples(st.just(verb), st.fixed_dictionaries(args)) for verb, args in ARGS.items()))
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def execute(calls: Sequence[tuple[str, dict[str, Any]]], data: st.DataObject, *, width: int, lost: bool) -> list[Op]:
    """What callers see of an execution in which each call takes effect somewhere between its begin and its end.

    ``width``: how many ms a call may begin before its moment and end after it, which come 4 ms one after the other.
    ``lost``: some replies are, and some calls too.
    """
    books, history, begun = Books(), [], PUT.args
    for at, (verb, args) in enumerate([("put_voucher", begun), ("put_voucher", {**begun, "codes": ["B"]}), *calls]):
        moment = 100 + 4 * at
        begin = moment - data.draw(st.integers(0, width)) if at > 1 else moment
        fate = (
            data.draw(st.sampled_from(["told", "told", "told", "no reply", "no call"])) if lost and at > 1 else "told"
        )
        ttl = {"ttl_ms": args["ttl_ms"] * MS} if "ttl_ms" in args else {}
        made = Op("w", at, verb, args, begin * MS, (moment + data.draw(st.integers(1, width))) * MS)
        seen = None
        if fate != "no call":
            seen = answer(books, replace(made, args={**args, **ttl}), moment * MS)
            give_ttl(books, made, moment)
        history.append(replace(made, seen=seen) if fate == "told" else replace(made, end=None))
    return data.draw(st.permutations(history))


def give_ttl(books: Books, made: Op, moment: int) -> None:
    """The model was given no end for the lock: here it is, if the call locked."""
    if made.verb == "validate" and made.args["key"] is not None:
        for code, _, _ in made.args["needs"]:
            book = books.vouchers.get(code)
            lock = book.sessions.get(made.args["key"]) if book else None
            if book and lock and lock.expires_at >= FOREVER:
                book.sessions[made.args["key"]] = replace(lock, expires_at=(moment + made.args["ttl_ms"]) * MS)


@SETTINGS
@given(calls=st.lists(CALLS, max_size=14), data=st.data())
def test_every_execution_passes_however_its_calls_overlap(
    calls: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    check(execute(calls, data, width=13, lost=True))


def tampered(history: Sequence[Op], data: st.DataObject) -> list[Op]:
    """One reply told wrong: another one of the same verb's, or its own with a figure, a flag or a name changed."""
    told = [at for at, each in enumerate(history) if each.end is not None]
    at = data.draw(st.sampled_from(told))
    seen = data.draw(st.sampled_from(wrong(history[at].seen)))
    assume(essence(history[at], seen) != essence(history[at], history[at].seen))
    return [replace(each, seen=seen) if here == at else each for here, each in enumerate(history)]


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
def test_where_calls_come_one_after_the_other_any_wrong_reply_fails(
    calls: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    lasting = [(verb, {**args, "ttl_ms": DAY} if "ttl_ms" in args else args) for verb, args in calls]
    history = execute(lasting, data, width=1, lost=False)
    check(history)
    with pytest.raises(AssertionError, match="no order explains"):
        check(tampered(history, data))


def explains(order: Sequence[Op]) -> bool:
    """Whether the books, asked in this order, say what was told."""
    for at, each in enumerate(order):
        if any(later.end is not None and later.end < each.begin for later in order[at + 1 :]):
            return False
    books = Books()
    for each in order:
        told = answer(books, each, 0)
        if each.end is not None and not agrees(each, told, each.seen):
            return False
    return True


def some_order_explains(history: Sequence[Op]) -> bool:
    """By trying all, with the calls of unknown outcome and without them."""
    known, unknown = [each for each in history if each.end is not None], [each for each in history if each.end is None]
    subsets = [[each for at, each in enumerate(unknown) if bits >> at & 1] for bits in range(2 ** len(unknown))]
    return any(explains(order) for subset in subsets for order in permutations([*known, *subset]))


@SETTINGS
@given(calls=st.lists(CALLS, min_size=2, max_size=4), data=st.data(), wrong=st.booleans())
def test_it_agrees_with_trying_all_orders(
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


# The recorder.


def test_a_history_recorded_over_an_engine_is_in_its_log_and_passes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    engine, recorder = VoucherSessions(fakeredis.FakeRedis()), Recorder("one", log)
    recorder.call(engine, "put_voucher", Voucher(code="A", quantity=3, credits=10))
    answer = recorder.call(engine, "validate", "A", credits=4, session={"type": "LOCK"})
    recorder.call(engine, "list_sessions", "A")
    with pytest.raises(LimitExceeded):
        recorder.call(engine, "redeem", "A", credits=7)
    recorder.call(engine, "redeem", "A", session=answer.session.key, redemption_id="order")
    assert recorder.call(engine, "redeem", "A", session=answer.session.key, redemption_id="order").replayed
    recorder.call(engine, "rollback", "A", "order")
    recorder.call(engine, "get_redemption", "A", "order")
    recorder.call(engine, "release", "A", answer.session.key)
    recorder.call(engine, "get_voucher", "A")
    recorder.call(engine, "validate", "B")
    recorder.call(engine, "delete_voucher", "A")
    recorder.close()
    assert all(each.seen is not None for each in recorder.history)
    assert len(recorder.history) == 12
    assert load([log]) == recorder.history == pickle.loads(pickle.dumps(recorder.history))
    check(recorder.history)


def test_a_history_of_stacks_recorded_over_an_asyncio_engine_passes() -> None:
    async def record() -> list[Op]:
        async with fakeredis.FakeAsyncRedis() as client:
            engine, recorder = AsyncVoucherSessions(client), Recorder("one")
            stack = [Redeemable(code="A", credits=3), Redeemable(code="B")]
            for code in "AB":
                await recorder.acall(engine, "put_voucher", Voucher(code=code, quantity=1, credits=5))
            await recorder.acall(engine, "validate_stack", stack, session={"type": "LOCK", "key": "k"})
            await recorder.acall(engine, "release_stack", ["B", "A"], "k")
            await recorder.acall(engine, "validate_stack", stack[1:], session={"type": "LOCK", "key": "k"})
            await recorder.acall(
                engine, "validate_stack", stack[:1], session={"type": "LOCK", "key": "k"}, release=["B"]
            )
            done = await recorder.acall(engine, "redeem_stack", stack, session="k", if_session_missing="redeem")
            await recorder.acall(engine, "rollback_stack", ["A", "B"], done.id)
            return recorder.history

    history = asyncio.run(record())
    assert [each.verb for each in history[2:]] == ["validate", "release", "validate", "validate", "redeem", "rollback"]
    check(history)
    assert history[-2].args["id"].startswith("rdm_")
    with pytest.raises(AssertionError):
        check([each for each in history if each.verb != "redeem"])


class Deaf:
    """An engine whose replies are lost."""

    def redeem(self, code: str, **_: Any) -> None:
        raise OutcomeUnknown("redeem", (code,), redemption_id="rdm_told")

    def validate(self, code: str, **_: Any) -> None:
        raise KeyboardInterrupt


def test_a_lost_reply_is_recorded_as_unknown_with_what_the_engine_generated(tmp_path: Path) -> None:
    recorder = Recorder("one", tmp_path / "log")
    with pytest.raises(OutcomeUnknown):
        recorder.call(Deaf(), "redeem", "A")
    with pytest.raises(KeyboardInterrupt):
        recorder.call(Deaf(), "validate", "A", session={"type": "LOCK"})
    recorder.close()
    redeemed, validated = load([tmp_path / "log"])
    assert (redeemed.end, redeemed.args["id"]) == (None, "rdm_told")
    assert (validated.end, validated.args["key"]) == (None, "one#1?")


def test_a_log_that_ends_in_the_middle_of_a_call_and_of_a_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    engine, recorder = VoucherSessions(fakeredis.FakeRedis()), Recorder("one", log)
    recorder.call(engine, "put_voucher", Voucher(code="A"))
    recorder.call(engine, "redeem", "A", redemption_id="o")
    recorder.close()
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    assert [each.end is None for each in load([log])] == [False, True]
