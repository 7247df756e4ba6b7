"""Replies: invalid ones are CorruptState, and those that ask for another command are followed by one."""

from __future__ import annotations

from operator import methodcaller
from typing import Any

import pytest
import redis
import redis.exceptions
from support import untyped
from support.scripted_clients import ScriptedClient, call_id_of

from core.both_engines import CHANGING, READING, on_both
from voucher_sessions import CorruptState, OutcomeUnknown, ServerUnavailable

NONSENSE: list[Any] = [
    [],
    [b"nonsense"],
    [b"state"],
    [b"state", 1, 2, 3, 4],
    [b"state", b"x", 2, 3, 4, 5, 6, 7, 8, 9],
    [b"answered"],
    [b"answered", 5, b"", 0],
    [b"answered", 5, b"because", 0, 0, 0, 0, 0, 0, 0, 0],
    [b"answered", b"now", b"", 0, 0, 1, 1, 1, 5, 0, 0],
    [b"answered", 5, b"", 0, 0, 1, -1, 1, 0, 0, 0],
    [b"refused", 1],
    [b"refused", 0, 0, b"not_found", 0, 0, 0, 0, 0],
    [b"refused", 0, 0, b"", 0, 0, 0, 0, 0],
    [b"receipts"],
    [b"receipts", b"1 life 1 2"],
    [b"receipts", b"1 life x 0 0 5 call - - key"],
    [b"receipts", 5],
    [b"released"],
    [b"deleted"],
    [b"sessions"],
    [b"sessions", 5, b"no member", 7],
    [b"sessions", 5, 6, 7],
    [b"voucher_missing", 9],
    [b"voucher_missing"],
    [b"voucher_missing", 0],
    [b"session_missing", None],
    [b"conflict", b"x"],
]


@pytest.mark.parametrize("act", CHANGING + READING)
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_an_invalid_reply_is_corrupt_state(act: methodcaller, nonsense: Any) -> None:
    for seen in on_both(act, nonsense):
        assert isinstance(seen, CorruptState), seen


@pytest.mark.parametrize(
    ("act", "reply"),
    [
        (methodcaller("delete_voucher", "A"), [b"deleted", True]),
        (methodcaller("delete_voucher", "A"), [b"deleted", 2]),
        (methodcaller("get_voucher", "A"), [b"state", -1, 0, 0, 0, 0, 0, 2**53, 0, 0]),
        (methodcaller("validate", "A"), [b"answered", 5, 0, 0, 0, 1, 1, 1, 0, 0, 0]),
        (methodcaller("validate", "A"), [b"answered", 5, b"", 1, 7, 1, 1, 1, 0, 0, 0]),
        (methodcaller("validate", "A"), [b"answered", 5, b"quantity_exceeded", 2, 7, 0, 1, 1, 0, 0, 0]),
        (methodcaller("validate", "A", session={"type": "LOCK"}), [b"answered", 5, b"", 0, 0, 1, 1, 1, 0, 0, 0]),
        (methodcaller("redeem", "A"), [b"refused", 0, 0, b"quantity_exceeded", 1, -7, 0, 1, 1]),
        (methodcaller("get_redemption", "A", "order"), [b"receipts", b"1 life 1 5 0 5 call - 6,0,- key"]),
        (methodcaller("get_redemption", "A", "order"), [b"receipts", b"1 life 1 5 0 5 call - 5,1,- key"]),
        (methodcaller("extend", "A", "cart"), [b"live", 5, 6, 0]),
        (methodcaller("extend_stack", ["A", "B"], "cart"), [b"live", 5, 6, 0, 0]),
        (methodcaller("redeem", "A"), [b"refused", 0, 2**53, b"loyalty_card_points_exceeded", 0, 0, 1, 1, 1]),
    ],
)
def test_a_reply_that_contradicts_itself_is_corrupt_state(act: methodcaller, reply: Any) -> None:
    for seen in on_both(act, reply):
        assert isinstance(seen, CorruptState), seen


PROXY = "the reply does not have the form that {}.lua returns{}: check which server the client is connected to"


@pytest.mark.parametrize(
    ("act", "script", "reply"),
    [
        (methodcaller("get_redemption", "A", "order"), "get_redemption", [b"receipts"]),
        (methodcaller("get_redemption", "A", "order"), "get_redemption", [b"receipts", 5]),
        (methodcaller("get_redemption", "A", "order"), "get_redemption", [b"rollback", b"hello"]),
        (methodcaller("get_redemption", "A", "order"), "get_redemption", [b"receipts", "hello"]),
        (methodcaller("list_sessions", "A"), "list_sessions", [b"sessions", 5, 6, 7]),
        (methodcaller("list_sessions", "A"), "list_sessions", [b"sessions", 5, b"foreign"]),
        (methodcaller("list_sessions", "A"), "list_sessions", [b"sessions", 5, b"1 0 cart", b"soon"]),
        (methodcaller("get_voucher", "A"), "get_voucher", [b"state", b"hello"]),
    ],
)
def test_a_malformed_reply_is_reported_as_one(act: methodcaller, script: str, reply: Any) -> None:
    for seen in on_both(act, reply):
        assert PROXY.format(script, "") in str(seen)


@pytest.mark.parametrize(
    "reply", [[b"receipts"], [b"receipts", 5], [b"deleted", 1], [b"refused", 1], [b"receipts", None]]
)
def test_a_malformed_reply_to_a_change_says_that_the_change_may_have_happened(reply: Any) -> None:
    for seen in on_both(methodcaller("redeem", "A", session="cart"), reply):
        assert PROXY.format("redeem", ", so the change may have happened") in str(seen)


@pytest.mark.parametrize(
    "act",
    [
        methodcaller("redeem", "A", redemption_id="order"),
        methodcaller("rollback", "A", "order"),
        methodcaller("rollback", "A", "order", credits=1, rollback_id="refund"),
        methodcaller("adjust", "A", credits=1, adjustment_id="topup"),
    ],
)
def test_a_damaged_receipt_of_this_very_call_came_from_a_change(act: methodcaller) -> None:
    """Only this call writes its id, so it has changed something, and the value was damaged later or on its way."""
    statuses = {"adjust": b"adjusted", "rollback": b"rollback" if "refund" in str(act) else b"receipts"}
    verb = str(act).split("'")[1]

    class Damaging(ScriptedClient):
        def reply(self, command: tuple[Any, ...]) -> Any:
            self._replies = [[statuses.get(verb, b"receipts"), b"1 life " + call_id_of(command)]]
            return super().reply(command)

    with pytest.raises(CorruptState, match="so the change may have happened"):
        act(untyped.VoucherSessions(Damaging()))


@pytest.mark.parametrize(
    ("act", "reply"),
    [
        (methodcaller("delete_voucher", "A"), [b"released", 1]),
        (methodcaller("release", "A", "cart"), [b"deleted", 1]),
        (methodcaller("get_voucher", "A"), [b"counted", -1, 0, 0, 0, 0, 0, 0, 0, 0]),
        (methodcaller("validate", "A"), [b"refused", 5, b"", 0, 0, 1, 1, 1, 0, 0, 0]),
        (methodcaller("list_sessions", "A"), [b"answered", 5]),
        (methodcaller("get_redemption", "A", "order"), [b"sessions", b"1 life 1 0 0 5 call - - key"]),
    ],
)
def test_a_reply_to_another_verb_is_corrupt_state(act: methodcaller, reply: list[Any]) -> None:
    for seen in on_both(act, reply):
        assert isinstance(seen, CorruptState), seen


@pytest.mark.parametrize("act", CHANGING + READING)
@pytest.mark.parametrize("reply", [None, b"OK", 7, {}, (b"deleted", 1)], ids=repr)
def test_a_reply_without_a_call_id_is_of_another_command(act: methodcaller, reply: Any) -> None:
    """It is never a result, and no sign of a corrupt state: the call is sent again, and counts as lost in the end."""
    for seen in on_both(act, *[reply] * 50):
        assert type(seen) is (OutcomeUnknown if act in CHANGING else ServerUnavailable)


def test_a_reply_that_arrives_after_the_expiry_has_no_time_left() -> None:
    """A call that the client sent again finds its own lock as it was."""
    act = methodcaller("validate", "A", session={"type": "LOCK", "key": "cart"})
    for seen in on_both(act, [b"answered", 1005, b"", 0, 0, 1, 1, 1, 1000, 0, 0]):
        assert (seen.valid, seen.session.remaining_ms) == (True, 0)


def test_noscript_is_followed_by_one_eval() -> None:
    client = ScriptedClient(redis.exceptions.NoScriptError("NOSCRIPT"), [b"deleted", 1])
    assert untyped.VoucherSessions(client).delete_voucher("A") is True
    assert [args[0] for args in client.sent] == ["EVALSHA", "EVAL", "ECHO"]
    assert client.sent[0][2:] == client.sent[1][2:]


def test_a_reply_that_asks_for_another_call_is_followed_by_one() -> None:
    client = ScriptedClient([b"again"], [b"again"], [b"state", -1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert untyped.VoucherSessions(client).get_voucher("A").quantity.limit is None
    assert len(client.sent) == 3


def test_every_call_is_one_command() -> None:
    replies = {"validate": [b"answered", 5, b"", 0, 0, 1, 1, 1, 0, 0, 0], "delete_voucher": [b"deleted", 0]}
    for verb, reply in replies.items():
        client = ScriptedClient(reply)
        getattr(untyped.VoucherSessions(client), verb)("A")
        assert len(client.sent) == 1
