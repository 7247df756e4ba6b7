"""The checker of histories: some must pass, some must fail, and its error says why."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from support.model import Books

from faults.history import Op
from faults.linearizable import TooManyOrders, check
from faults.model_answers import answer

MS = 1_000_000
DAY = 86_400_000


NUMBERS = count()
DEFAULTS: dict[str, dict[str, Any]] = {
    "put_voucher": {"limit": [1, 10, 0], "used": None, "if_exists": "update"},
    "validate": {"needs": [["A", 0, 0]], "key": "k", "ttl_ms": DAY, "release": []},
    "redeem": {"needs": [["A", 0, None]], "key": None, "id": "o", "if_missing": "raise"},
    "release": {"key": "k"},
    "rollback": {"id": "o"},
    "adjust": {"changes": [1, 0, 0], "adjustment_id": "a"},
    "extend": {"key": "k", "ttl_ms": DAY},
    "get_session": {"key": "k"},
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


def redemption(credits: int = 0, key: str | None = None, back: int = 0, replayed: bool = False) -> list[Any]:
    return [[1, credits, 0, key, False, back, 0, replayed]]


def state(used: int, locked: int, credits_used: int = 0, credits_locked: int = 0) -> list[list[int]]:
    return [[1, used, locked], [10, credits_used, credits_locked], [0, 0, 0]]


def given_back(credits: int = 0, replayed: bool = False) -> list[Any]:
    return [[1, credits, 0, replayed]]


def part_back(begin: int, end: int | None, seen: Any = None, credits: int = 3, id_: str = "r") -> Op:
    seen = seen or [[0, credits, 0, False]]
    return op("rollback", begin, end, seen, id="o", part=[credits, 0], rollback_id=id_)


def adjusted(quantity: int, replayed: bool = False, voucher: list[list[int]] | None = None) -> list[Any]:
    return [quantity, 0, 0, voucher, replayed]


def exceeded(requested: int, available: int) -> dict[str, Any]:
    facts = {"balance": "credits", "requested": requested, "available": available}
    return {"error": "RollbackExceeded", "code": "A", "redemption_id": "o", **facts}


NO_SESSION = {"error": "SessionNotFound", "code": "A", "codes": ["A"], "session_key": "k"}
MISSING = {"error": "RedemptionNotFound", "code": "A", "redemption_id": "o"}
CONFLICT = {"error": "RedemptionConflict", "code": "A", "redemption_id": "o"}
ROLLED_BACK = {**CONFLICT, "error": "RedemptionRolledBack"}
EXISTS = {"error": "VoucherExists", "code": "A"}
AMOUNT_REQUIRED = {"error": "AmountRequired", "code": "A", "codes": ["A"]}
NO_SESSION_ON_B = {"error": "SessionNotFound", "code": "B", "codes": ["B"], "session_key": "k"}
BOTH = [["A", 0, 0], ["B", 0, 0]]
PUT_B = op("put_voucher", 2, 3, state(0, 0), codes=["B"])

EXPLAINED: dict[str, list[Op]] = {
    "nothing happened": [],
    "one refused of two at a time": [
        op("redeem", 2, 9, redemption(), id="x"),
        op("redeem", 2, 9, {**USED_UP, "locked_by_others": False}, id="y"),
    ],
    "a read beside a redemption sees it": [op("redeem", 2, 9, redemption()), op("get_voucher", 3, 4, state(1, 0))],
    "a read beside a redemption does not see it yet": [
        op("redeem", 2, 9, redemption()),
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
        op("redeem", 4, 5, redemption(), id="y"),
        op("get_redemption", 6, 7, {**MISSING, "redemption_id": "x"}, id="x"),
    ],
    "unknown, repeated and replayed": [op("redeem", 2, None), op("redeem", 4, 5, redemption(replayed=True))],
    "unknown, repeated and new": [op("redeem", 2, None), op("redeem", 4, 5, redemption())],
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
    "a put that brings back what was deleted beside it": [
        op("put_voucher", 2, 9, PUT.seen),
        op("delete_voucher", 3, 4, True),
        op("get_voucher", 5, 6, state(0, 0)),
    ],
    "a validation that locks again what was released beside it": [
        op("validate", 2, 3, grants()),
        op("validate", 4, 9, grants()),
        op("release", 5, 6, [True]),
        op("list_sessions", 10, 11, {"k": [0, 0]}),
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
        op("redeem", 2, 3, redemption()),
        op("delete_voucher", 4, 5, True),
        op("redeem", 6, 7, redemption(replayed=True)),
    ],
    "redeemed again after the rollback, or before": [
        op("redeem", 2, 3, redemption()),
        op("rollback", 4, 9, given_back()),
        op("redeem", 4, 9, ROLLED_BACK),
        op("redeem", 4, 9, redemption(replayed=True)),
    ],
    "half of a stack, repeated": [
        PUT_B,
        op("redeem", 4, 5, redemption() * 2, needs=BOTH),
        op("redeem", 6, 7, CONFLICT),
        op("redeem", 6, 7, redemption(replayed=True) * 2, needs=BOTH[::-1]),
    ],
    "no amounts and no session": [op("redeem", 2, 3, AMOUNT_REQUIRED, needs=[["A", None, None]])],
    "a holder of more than a limit that was lowered": [
        op("put_voucher", 2, 3, [[2, 0, 0], [10, 0, 0], [0, 0, 0]], limit=[2, 10, 0]),
        op("validate", 4, 5, [{**grants()[0], "available": [2, 10, 0]}], key="k"),
        op("validate", 6, 7, grants(), key="z"),
        op("put_voucher", 8, 9, state(0, 2)),
        op("redeem", 10, 20, {**USED_UP, "locked_by_others": False}, key="k", id="x"),
        op("redeem", 10, 20, redemption(key="z"), key="z", id="y"),
    ],
    "put beside its twin, of which one finds the other's": [
        op("put_voucher", 2, 9, state(0, 0), codes=["B"], if_exists="raise"),
        op("put_voucher", 2, 9, {**EXISTS, "code": "B"}, codes=["B"], if_exists="raise"),
    ],
    "figures kept": [
        op("redeem", 2, 3, redemption()),
        op("put_voucher", 4, 5, state(1, 0), limit=[9, 9, 9], used=[0, 0, 0], if_exists="keep"),
        op("get_voucher", 6, 7, state(1, 0)),
    ],
    "some of many sessions are listed": [
        op("put_voucher", 2, 3, [[2, 0, 0], [10, 0, 0], [0, 0, 0]], limit=[2, 10, 0]),
        op("validate", 4, 5, [{**grants()[0], "available": [2, 10, 0]}], key="k"),
        op("validate", 6, 7, grants(), key="z"),
        op("list_sessions", 8, 9, {"z": [0, 0]}, limit=1),
    ],
    "two adjustments at a time": [
        op("adjust", 2, 9, adjusted(2), changes=[2, 0, 0], adjustment_id="x"),
        op("adjust", 2, 9, adjusted(3), changes=[3, 0, 0], adjustment_id="y"),
        op("get_voucher", 10, 11, [[6, 0, 0], *state(0, 0)[1:]]),
    ],
    "unknown adjustment, repeated and replayed": [
        op("adjust", 2, None),
        op("adjust", 4, 5, adjusted(1, replayed=True, voucher=[[2, 0, 0], *state(0, 0)[1:]])),
    ],
    "an adjustment that raises the limit for a redemption beside it": [
        op("adjust", 2, 9, adjusted(1)),
        op("redeem", 2, 9, redemption(), id="x"),
        op("redeem", 2, 9, redemption(), id="y"),
    ],
    "an adjustment below 0 beside one that makes it fit": [
        op("adjust", 2, 9, adjusted(5), changes=[5, 0, 0], adjustment_id="x"),
        op("adjust", 2, 9, adjusted(-4), changes=[-4, 0, 0], adjustment_id="y"),
    ],
    "an adjustment replayed after the voucher is gone": [
        op("adjust", 2, 3, adjusted(1)),
        op("delete_voucher", 4, 5, True),
        op("adjust", 6, 7, adjusted(1, replayed=True)),
    ],
    "a part given back, then another, then the rest": [
        op("redeem", 2, 3, redemption(9), needs=[["A", 9, 0]]),
        part_back(4, 5),
        part_back(6, 7, id_="s", credits=2),
        op("get_redemption", 8, 9, redemption(9, back=5)[0][:-1]),
        op("rollback", 10, 11, given_back(4)),
        op("get_voucher", 12, 13, state(0, 0)),
    ],
    "two parts at a time, of which one fits": [
        op("redeem", 2, 3, redemption(5), needs=[["A", 5, 0]]),
        part_back(4, 9, exceeded(3, 2)),
        part_back(4, 9, id_="s"),
        op("get_voucher", 10, 11, state(1, 0, 2)),
    ],
    "unknown part, repeated and replayed": [
        op("redeem", 2, 3, redemption(9), needs=[["A", 9, 0]]),
        part_back(4, None),
        part_back(6, 7, [[0, 3, 0, True]]),
        op("get_voucher", 8, 9, state(1, 0, 6)),
    ],
    "redeemed again after a part was given back": [
        op("redeem", 2, 3, redemption(9), needs=[["A", 9, 0]]),
        part_back(4, 5),
        op("redeem", 6, 7, redemption(9, back=3, replayed=True), needs=[["A", 9, 0]]),
    ],
    "a lock that was extended": [
        op("validate", 2, 3, grants(4), needs=[["A", 4, 0]], ttl_ms=30),
        op("extend", 20, 21, [[4, 0]], ttl_ms=60),
        op("get_session", 60, 61, [[4, 0]]),
        op("list_sessions", 99, 100, {}),
    ],
    "a lock that was made shorter": [
        op("validate", 2, 3, grants()),
        op("extend", 4, 5, [[0, 0]], ttl_ms=30),
        op("get_session", 50, 51, NO_SESSION),
    ],
    "unknown extension that came in time": [
        op("validate", 2, 3, grants(), ttl_ms=30),
        op("extend", 20, None, ttl_ms=60),
        op("list_sessions", 60, 61, {"k": [0, 0]}),
    ],
    "a stack extended beside the end of one of its locks": [
        PUT_B,
        op("validate", 4, 5, [*grants(), *grants()], needs=BOTH),
        op("extend", 6, 9, NO_SESSION_ON_B, codes=["A", "B"]),
        op("release", 6, 9, [True], codes=["B"]),
    ],
}

UNEXPLAINED: dict[str, list[Op]] = {
    "double grant": [op("validate", 2, 9, grants(), key="k"), op("validate", 2, 9, grants(), key="z")],
    "double spending": [op("redeem", 2, 9, redemption(), id="x"), op("redeem", 2, 9, redemption(), id="y")],
    "lost redemption": [op("redeem", 2, 3, redemption()), op("get_voucher", 4, 5, state(0, 0))],
    "lost receipt": [op("redeem", 2, 3, redemption()), op("get_redemption", 4, 5, MISSING)],
    "lost lock": [op("validate", 2, 3, grants()), op("redeem", 4, 5, NO_SESSION, key="k")],
    "a replay reported as new": [op("redeem", 2, 3, redemption()), op("redeem", 4, 5, redemption())],
    "a new one reported as a replay": [op("redeem", 2, 3, redemption(replayed=True))],
    "replay with another amount": [
        op("redeem", 2, 3, redemption(4), needs=[["A", 4, 0]]),
        op("redeem", 4, 5, redemption(5, replayed=True)),
    ],
    "redeemed twice under one id": [op("redeem", 2, 9, redemption()), op("get_voucher", 3, 4, state(2, 0))],
    "stale read": [
        op("redeem", 2, 9, redemption()),
        op("get_voucher", 3, 4, state(1, 0)),
        op("get_voucher", 5, 6, state(0, 0)),
    ],
    "a refusal with nothing in the way": [op("redeem", 2, 3, {**USED_UP, "locked_by_others": False})],
    "locked reported as used up": [
        op("validate", 2, 3, grants()),
        op("redeem", 4, 5, {**USED_UP, "locked_by_others": False}),
    ],
    "resurrection after rollback": [
        op("validate", 2, 3, grants()),
        op("redeem", 4, 5, redemption(key="k"), key="k"),
        op("rollback", 6, 7, given_back()),
        op("list_sessions", 8, 9, {"k": [0, 0]}),
    ],
    "resurrection after release": [
        op("validate", 2, 3, grants()),
        op("release", 4, 5, [True]),
        op("list_sessions", 6, 7, {"k": [0, 0]}),
    ],
    "rolled back twice": [
        op("redeem", 2, 3, redemption()),
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
        op("redeem", 5, 6, redemption()),
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
    "silence for payment": [
        op("redeem", 2, 3, redemption()),
        op("rollback", 4, 5, given_back()),
        op("redeem", 6, 7, [[1, 0, 0, None, True, 0, 0, True]]),
    ],
    "half of a stack, replayed": [
        PUT_B,
        op("redeem", 4, 5, redemption() * 2, needs=BOTH),
        op("redeem", 6, 7, redemption(replayed=True)),
    ],
    "nothing taken for a session that is gone": [
        op("redeem", 2, 3, redemption(key="k"), needs=[["A", None, None]], key="k", if_missing="redeem")
    ],
    "a new grant above a limit that was lowered": [
        op("validate", 2, 3, grants()),
        op("put_voucher", 4, 5, [[0, 0, 1], [10, 0, 0], [0, 0, 0]], limit=[0, 10, 0]),
        op("validate", 6, 7, grants()),
    ],
    "put twice as a new one": [
        op("put_voucher", 2, 9, state(0, 0), codes=["B"], if_exists="raise"),
        op("put_voucher", 2, 9, state(0, 0), codes=["B"], if_exists="raise"),
    ],
    "old figures brought back": [
        op("redeem", 2, 3, redemption()),
        op("put_voucher", 4, 5, state(1, 0), used=[0, 0, 0], if_exists="keep"),
        op("get_voucher", 6, 7, state(0, 0)),
    ],
    "half a stack": [
        PUT_B,
        op("redeem", 4, 5, redemption() * 2, needs=BOTH),
        op("get_voucher", 6, 7, state(0, 0), codes=["B"]),
    ],
    "a lost adjustment": [
        op("adjust", 2, 9, adjusted(2), changes=[2, 0, 0], adjustment_id="x"),
        op("adjust", 2, 9, adjusted(3), changes=[3, 0, 0], adjustment_id="y"),
        op("get_voucher", 10, 11, [[4, 0, 0], *state(0, 0)[1:]]),
    ],
    "adjusted twice under one id": [op("adjust", 2, 9, adjusted(1)), op("adjust", 2, 9, adjusted(1))],
    "a limit below 0": [op("adjust", 2, 3, adjusted(-2), changes=[-2, 0, 0])],
    "an adjustment of a voucher that is gone": [
        op("delete_voucher", 2, 3, True),
        op("adjust", 4, 5, adjusted(1)),
    ],
    "more given back than was taken": [
        op("redeem", 2, 3, redemption(5), needs=[["A", 5, 0]]),
        part_back(4, 9),
        part_back(4, 9, id_="s"),
    ],
    "a part given back twice under one id": [
        op("redeem", 2, 3, redemption(9), needs=[["A", 9, 0]]),
        part_back(4, 9),
        part_back(4, 9),
    ],
    "the rest with what was given back before": [
        op("redeem", 2, 3, redemption(9), needs=[["A", 9, 0]]),
        part_back(4, 5),
        op("rollback", 6, 7, given_back(9)),
    ],
    "silence for payment, given back in parts": [
        op("redeem", 2, 3, redemption(3), needs=[["A", 3, 0]]),
        part_back(4, 5),
        op("redeem", 6, 7, redemption(3, back=3, replayed=True), needs=[["A", 3, 0]]),
    ],
    "an extension that was lost": [
        op("validate", 2, 3, grants(), ttl_ms=30),
        op("extend", 20, 21, [[0, 0]], ttl_ms=60),
        op("get_session", 60, 61, NO_SESSION),
    ],
    "an extension that lost the amounts": [
        op("validate", 2, 3, grants(4), needs=[["A", 4, 0]]),
        op("extend", 4, 5, [[4, 0]]),
        op("get_session", 6, 7, [[0, 0]]),
    ],
    "an extension of what is not live": [op("extend", 2, 3, [[0, 0]])],
    "half a stack extended": [
        PUT_B,
        op("validate", 4, 5, [*grants(), *grants()], needs=BOTH, ttl_ms=30),
        op("extend", 6, 7, [[0, 0], [0, 0]], codes=["A", "B"]),
        op("get_session", 60, 61, NO_SESSION_ON_B, codes=["B"]),
    ],
    "an error of another kind": [op("redeem", 2, 3, {"error": "CorruptState", "text": ""})],
    "fewer sessions listed than asked for": [op("validate", 2, 3, grants()), op("list_sessions", 4, 5, {}, limit=1)],
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_histories_with_a_valid_order_pass(name: str) -> None:
    check([PUT, *EXPLAINED[name]])


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_histories_without_a_valid_order_fail(name: str) -> None:
    with pytest.raises(AssertionError, match="no order explains"):
        check([PUT, *UNEXPLAINED[name]])


def test_the_error_names_the_first_reply_that_no_order_explains() -> None:
    later = [op("get_voucher", at, at + 1, state(0, 0)) for at in range(10, 50, 2)]
    with pytest.raises(AssertionError) as raised:
        check([PUT, *UNEXPLAINED["double grant"], *later])
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("no order explains the result of w#")
    assert "validate" in lines[0]
    assert lines[1] == "the furthest order ends with"
    assert "put_voucher" in lines[2]
    assert any(line.startswith("    but the model says: [{'reason': 'quantity_exceeded'") for line in lines)


def test_histories_can_start_from_existing_vouchers() -> None:
    books = Books()
    answer(books, PUT, 0)
    check(EXPLAINED["unknown that took effect"], initial=books)
    with pytest.raises(AssertionError):
        check(EXPLAINED["unknown that took effect"])


def test_too_many_concurrent_calls_give_no_verdict() -> None:
    crowd = [op("validate", 2, None, key=f"k{at}") for at in range(20)]
    with pytest.raises(TooManyOrders):
        check([PUT, *crowd, op("get_voucher", 3, 4, state(0, 5))], steps=10)
