"""Any reply of a server gives a correct result or an error of this library, never a raw error or a wrong result."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator
from itertools import product
from typing import Any, Final

import pytest
import redis.exceptions
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import untyped
from support.scripted_clients import AsyncScriptedClient, ScriptedClient

from faults.recorded_replies import (
    RECORDED_CALLS,
    RecordedCall,
    assert_error,
    assert_sound,
    right_replies,
)
from faults.test_hostile_input import QUEUED, VERBS
from voucher_sessions import (
    CorruptState,
    Durability,
    Finding,
    InvalidRequest,
    NotDurable,
    OutcomeUnknown,
    ServerUnavailable,
    VoucherSessions,
    VoucherSessionsError,
)

EXAMPLES: Final = 30
RIGHT: Final[dict[int, list[list[Any]]]] = {}


def right(recorded_call: RecordedCall) -> list[list[Any]]:
    """The right replies, recorded once."""
    if id(recorded_call) not in RIGHT:
        RIGHT[id(recorded_call)] = right_replies(recorded_call)
    return RIGHT[id(recorded_call)]


class OutOfStepClient(ScriptedClient):
    """A client whose connection is behind: the first commands get the given replies, which are to other commands."""

    def __init__(self, *foreign: Any, then: list[Any] | None = None) -> None:
        super().__init__(*(then or []))
        self._foreign = list(foreign)
        self._stays = then is None

    def reply(self, command: tuple[Any, ...]) -> Any:
        if not self._foreign:
            return super().reply(command)
        return self._foreign[0] if self._stays else self._foreign.pop(0)


class AsyncOutOfStepClient(OutOfStepClient, AsyncScriptedClient):
    pass


def on_both(recorded_call: RecordedCall, *answers: Any) -> list[Any]:
    """What each engine makes of the answers: a result, or an error of ours."""
    return outcomes_of(recorded_call, ScriptedClient(*answers), AsyncScriptedClient(*answers))


def outcomes_of(recorded_call: RecordedCall, client: ScriptedClient, asyncio_client: AsyncScriptedClient) -> list[Any]:
    sync = untyped.VoucherSessions(client)
    waiting = untyped.AsyncVoucherSessions(asyncio_client)
    return [outcome(lambda: recorded_call.call(sync)), outcome(lambda: run_through(recorded_call.call(waiting)))]


def run_through(waiting: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits: all that these clients do is done at once."""
    try:
        waiting.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


def outcome(run: Callable[[], Any]) -> Any:
    """What it returns; or an error of ours, or of the client."""
    try:
        return run()
    except (VoucherSessionsError, redis.exceptions.RedisError) as error:
        return error


def check(recorded_call: RecordedCall, *answers: Any) -> None:
    for outcome in on_both(recorded_call, *answers):
        if isinstance(outcome, VoucherSessionsError):
            assert not isinstance(outcome, InvalidRequest)
            assert_error(outcome, recorded_call)
        else:
            assert_sound(outcome, recorded_call)
        if not all(map(has_reply_form, answers)):
            assert isinstance(outcome, CorruptState), outcome


def has_reply_form(reply: Any) -> bool:
    """A list of bytes and integers, as every script answers behind the call id."""
    return type(reply) is list and all(type(item) in {bytes, int} for item in reply)


def test_every_verb_is_answered() -> None:
    assert {recorded_call.verb for recorded_call in RECORDED_CALLS} == set(VERBS)
    for recorded_call in RECORDED_CALLS:
        assert all(map(has_reply_form, right(recorded_call)))
        check(recorded_call, *right(recorded_call))


STATUSES: Final = [
    *(b"state", b"answered", b"receipts", b"refused", b"released", b"deleted", b"sessions", b"conflict"),
    *(b"voucher_missing", b"session_missing", b"redemption_missing", b"partition", b"counted", b"repaired", b""),
    *(b"exists", b"amount_required", b"put", b"adjusted", b"adjustment_refused", b"rollback", b"exceeded", b"live"),
]
ITEMS: Final = st.one_of(
    st.integers(),
    st.integers(-2, 12),
    st.binary(max_size=12),
    st.from_regex(rb"-?[0-9]{1,20}( -?[0-9]{1,3}){0,6}( .{0,5})?", fullmatch=True),
    st.sampled_from([b"", b"-", b"quantity_exceeded", b"gift_amount_exceeded", b"not_found", b"\xff", b"5 0 cart"]),
)
JUNK: Final = st.recursive(
    st.one_of(
        ITEMS,
        st.none(),
        st.booleans(),
        st.floats(),
        st.text(max_size=12),
        st.builds(bytearray, st.binary(max_size=5)),
        st.builds(redis.exceptions.ResponseError, st.text(max_size=5)),
        st.builds(object),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(st.one_of(st.integers(), st.binary(max_size=5)), inner, max_size=3),
    ),
    max_leaves=12,
)


# What the client's own reading of INFO and CONFIG GET could give.
MAPPINGS: Final = st.dictionaries(
    st.sampled_from(
        ["redis_version", "role", "connected_slaves", "maxmemory", "maxmemory_policy", "aof_enabled", "save"]
    ),
    JUNK,
    max_size=7,
)


def is_answer(reply: Any) -> bool:
    """Exceptions are raised by clients, and 'again' asks for another call."""
    return not isinstance(reply, Exception) and not (isinstance(reply, list) and reply[:1] == [b"again"])


@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
@settings(max_examples=EXAMPLES, deadline=None)
@given(reply=st.lists(JUNK, max_size=6).filter(is_answer))
def test_any_answer(recorded_call: RecordedCall, reply: list[Any]) -> None:
    check(recorded_call, reply)


@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
@settings(max_examples=EXAMPLES, deadline=None)
@given(status=st.sampled_from(STATUSES), items=st.lists(ITEMS, max_size=19))
def test_any_answer_in_the_right_form(recorded_call: RecordedCall, status: bytes, items: list[Any]) -> None:
    check(recorded_call, [status, *items])


def retyped(item: Any) -> list[Any]:
    """The same, and yet not: what a decoding client, another protocol or another script could make of it."""
    text = item.decode("latin-1") if isinstance(item, bytes) else str(item)
    others: list[Any] = [text, text.encode(), bytearray(text.encode()), None, [item], {item: item}, item == 1, 1.5, ()]
    if isinstance(item, int):
        others += [float(item), complex(item)]
    return [each for each in others if type(each) is not type(item)]


def bent_items(item: Any) -> list[Any]:
    """Negated, too large, cut, lengthened: of the right type, and wrong."""
    if isinstance(item, int):
        return [-item, -item - 1, item + 2**53, item + 2**63, 10**30, item + 2]
    words = item.split(b" ")
    negated = [b" ".join([*words[:at], b"-" + word, *words[at + 1 :]]) for at, word in enumerate(words)]
    larger = [b" ".join([*words[:at], word + b"0" * 20, *words[at + 1 :]]) for at, word in enumerate(words)]
    return [b"", item[:-1], item + b"\xff", item + b" 5", b" " + item, item + b"\n", b"\0", *negated, *larger]


def similar_replies(reply: list[Any]) -> list[list[Any]]:
    """A right reply with one thing wrong: an item dropped, doubled, swapped, retyped, bent."""
    replies = []
    for at, item in enumerate(reply):
        before, after = reply[:at], reply[at + 1 :]
        replies += [before + after, [*before, item, item, *after], before]
        replies += [[*before, other, *after] for other in retyped(item) + bent_items(item)]
        replies += [[*before, *after[:1], item, *after[1:]], [*before, item, None, *after]]
    return replies


def all_similar_replies(recorded_call: RecordedCall) -> Iterator[list[Any]]:
    """The right replies with one thing wrong in one of them."""
    for at, reply in enumerate(right(recorded_call)):
        for bent_one in filter(is_answer, similar_replies(reply)):
            yield [*right(recorded_call)[:at], bent_one, *right(recorded_call)[at + 1 :]]


@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
def test_a_right_answer_with_one_thing_wrong(recorded_call: RecordedCall) -> None:
    for answers in all_similar_replies(recorded_call):
        check(recorded_call, *answers)


REFUSALS: Final = [b"exists", b"voucher_missing", b"session_missing", b"redemption_missing", b"amount_required"]
FLAGS: Final = [-1, 3, b"", b"x", b"-1"]


@pytest.mark.parametrize(
    ("verb", "flag"),
    [("delete_voucher", 2), *product(["delete_voucher", "release", "release_stack"], FLAGS)],
)
def test_a_flag_out_of_its_range_is_corrupt_state(verb: str, flag: Any) -> None:
    """A voucher was deleted or not (0, 1); a session was not live, was released, or had ended before (0, 1, 2)."""
    recorded_call = next(recorded_call for recorded_call in RECORDED_CALLS if recorded_call.verb == verb)
    for outcome in on_both(recorded_call, [*right(recorded_call)[0][:-1], flag]):
        assert isinstance(outcome, CorruptState)


@pytest.mark.parametrize("number", [0, -1, -2, 3, 2**64, b"x"])
@pytest.mark.parametrize("status", [*REFUSALS, b"conflict"])
def test_a_status_about_a_voucher_that_was_not_requested_is_corrupt_state(status: bytes, number: Any) -> None:
    """They are counted from 1; Python would count from the end what is below."""
    for recorded_call in RECORDED_CALLS:
        if recorded_call.codes == ("A", "B"):
            for outcome in on_both(recorded_call, [status, number]):
                assert isinstance(outcome, CorruptState), (recorded_call, outcome)


def test_a_deeply_nested_reply_is_corrupt_state() -> None:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    for recorded_call in RECORDED_CALLS:
        for outcome in on_both(recorded_call, nested):
            assert isinstance(outcome, CorruptState)
        assert_lost(recorded_call, nested)


@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
@settings(max_examples=10, deadline=None)
@given(
    kind=st.sampled_from([each for each in vars(redis.exceptions).values() if isinstance(each, type)]),
    text=st.one_of(st.text(max_size=9), st.sampled_from(["WRONGTYPE x", "CORRUPT x", "OOM x", "NOPERM x", "BUSY x"])),
)
def test_any_error_of_the_client(recorded_call: RecordedCall, kind: type[Exception], text: str) -> None:
    """Ours, or the client's own."""
    if not issubclass(kind, redis.exceptions.RedisError) or issubclass(kind, redis.exceptions.NoScriptError):
        return
    try:
        error = kind(text)
    except Exception:  # MOVED and the like must be rightly worded
        return
    for error_seen in on_both(recorded_call, error):
        assert not isinstance(error_seen, InvalidRequest)
        assert error_seen is error or error_seen.__cause__ is error


@pytest.mark.parametrize(
    "recorded_call", [recorded_call for recorded_call in RECORDED_CALLS if recorded_call.verb in QUEUED], ids=repr
)
def test_a_right_answer_with_one_thing_wrong_in_a_batch(recorded_call: RecordedCall) -> None:
    """Beside a right one, which is answered rightly."""
    beside = next(each for each in RECORDED_CALLS if each.verb == "get_voucher")
    for (answer,) in all_similar_replies(recorded_call):
        engine = untyped.VoucherSessions(ScriptedClient(right(beside)[0], answer))
        first, second = recorded_call.call(beside.call(engine.pipeline())).execute(raise_on_error=False)
        assert_sound(first, beside)
        if isinstance(second, VoucherSessionsError):
            assert_error(second, recorded_call)
        else:
            assert_sound(second, recorded_call)


# --- Replies to other commands -------------------------------------------------------------------------------------


def assert_lost(recorded_call: RecordedCall, *foreign: Any) -> None:
    """A reply that does not begin with the call id says nothing about the call, however often the call is sent."""
    clients = OutOfStepClient(*foreign), AsyncOutOfStepClient(*foreign)
    for lost in outcomes_of(recorded_call, *clients):
        assert_unknown(recorded_call, lost)


def assert_unknown(recorded_call: RecordedCall, lost: Any) -> None:
    """``OutcomeUnknown`` with all that repeats the call, if it changes something; otherwise ``ServerUnavailable``."""
    if is_read(recorded_call):
        assert isinstance(lost, ServerUnavailable)
        return
    assert isinstance(lost, OutcomeUnknown), lost
    assert (lost.verb, lost.codes[: len(recorded_call.codes)]) == (
        recorded_call.verb,
        recorded_call.codes,
    )
    if recorded_call.session_key is not None:
        assert lost.session_key == recorded_call.session_key
    if recorded_call.redemption_id is not None:
        assert lost.redemption_id == recorded_call.redemption_id


READS: Final = {*("get_voucher", "get_redemption", "get_session", "list_sessions", "iter_sessions", "audit", "repair")}


def is_read(recorded_call: RecordedCall) -> bool:
    """Whether it changes nothing. A repair begins with an audit, which only reads."""
    if recorded_call.verb.startswith("validate"):
        return recorded_call.session_key is None
    return recorded_call.verb in READS


@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
@settings(max_examples=EXAMPLES, deadline=None)
@given(reply=JUNK.filter(lambda reply: not isinstance(reply, Exception)))
def test_any_reply_that_does_not_begin_with_the_call_id_is_lost(recorded_call: RecordedCall, reply: Any) -> None:
    assert_lost(recorded_call, reply)


@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
def test_the_right_answer_behind_another_call_id_is_lost(recorded_call: RecordedCall) -> None:
    """Above all the replies to other calls of the same verb: their form is right."""
    for foreign_id in (b"aaaaaaaaaaa", b"", "aaaaaaaaaaa", bytearray(b"aaaaaaaaaaa"), 5, None):
        assert_lost(recorded_call, [foreign_id, *right(recorded_call)[0]])
    assert_lost(recorded_call, right(recorded_call)[0])


@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
@pytest.mark.parametrize("behind", [1, 3, 10])
def test_a_call_is_sent_again_until_its_connection_is_in_step(recorded_call: RecordedCall, behind: int) -> None:
    foreign = [[b"aaaaaaaaaaa", b"again"], b"OK", None, 1, []] * 2
    expected = on_both(recorded_call, *right(recorded_call))
    clients: list[Any] = [
        kind(*foreign[:behind], then=right(recorded_call)) for kind in (OutOfStepClient, AsyncOutOfStepClient)
    ]
    for seen, wanted in zip(outcomes_of(recorded_call, *clients), expected, strict=True):
        assert without_random_parts(seen) == without_random_parts(wanted)


def without_random_parts(outcome: Any) -> str:
    """What a call returned or raised, without the ids that the engine generated."""
    return re.sub("(rdm|rbk|adj)_[A-Za-z0-9]{32}|replayed=True", "", f"{type(outcome)} {outcome!r} {outcome}")


@pytest.mark.parametrize(
    "recorded_call", [recorded_call for recorded_call in RECORDED_CALLS if recorded_call.verb in QUEUED], ids=repr
)
def test_replies_to_other_commands_in_a_batch_are_lost(recorded_call: RecordedCall) -> None:
    """One reply too many before them: each of the two calls gets the reply to the command before it."""
    beside = next(each for each in RECORDED_CALLS if each.verb == "get_voucher")
    for foreign in (b"OK", [b"aaaaaaaaaaa", *right(beside)[0]], [], None):
        engine = untyped.VoucherSessions(OutOfStepClient(foreign))
        first, second = recorded_call.call(beside.call(engine.pipeline())).execute(raise_on_error=False)
        assert_unknown(beside, first)
        assert_unknown(recorded_call, second)


@settings(max_examples=100, deadline=None)
@given(answers=st.lists(st.one_of(JUNK, MAPPINGS), min_size=8, max_size=8))
def test_check_server_with_any_answers(answers: list[Any]) -> None:
    client: Any = ScriptedClient(*answers)
    found = outcome(lambda: VoucherSessions(client, durability=Durability(replicas=1)).check_server())
    if not isinstance(found, VoucherSessionsError | redis.exceptions.RedisError):
        assert {type(each) for each in found} <= {Finding}
        for each in found:
            type(each).model_validate(each.model_dump(), strict=True)


# --- What confirms a change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "durability", [Durability(replicas=1), Durability(fsync=True), Durability(replicas=2, fsync=True)]
)
@settings(max_examples=80, deadline=None)
@example(fence=None, confirmation=True)
@given(fence=JUNK, confirmation=st.one_of(JUNK, st.lists(st.integers(-2, 3), max_size=3)))
def test_any_confirmation(durability: Durability, fence: Any, confirmation: Any) -> None:
    """If the reply to the fence key is one to another command, all is sent again, and gets its own replies then."""
    recorded_call = next(recorded_call for recorded_call in RECORDED_CALLS if recorded_call.verb == "release")
    (reply,) = right(recorded_call)
    client: Any = ScriptedClient(reply, fence, confirmation, reply, b"OK", confirmation)
    result = outcome(lambda: recorded_call.call(VoucherSessions(client, durability=durability)))
    if isinstance(result, NotDurable):
        assert_sound(result.result, recorded_call)
        assert str(result)
    else:
        assert_sound(result, recorded_call)
        answers = confirmation if durability.fsync else [1, confirmation]
        assert all(type(number) is int for number in answers)
        assert answers[0] >= 1
        assert answers[1] >= durability.replicas
