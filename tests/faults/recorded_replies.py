"""Correct replies, recorded for every verb, for tests that change them; and what must be true of any result."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from operator import methodcaller
from typing import Any, Final, Self

import fakeredis
import redis
from pydantic import BaseModel
from support import untyped
from support.scripted_clients import call_id_of

from voucher_sessions import (
    ActiveSession,
    Adjustment,
    Audit,
    LimitExceeded,
    Redeemable,
    Redemption,
    RedemptionNotFound,
    Release,
    Rollback,
    StackRedemption,
    StackValidation,
    Used,
    Validation,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
    VoucherSessionsError,
    VoucherState,
)
from voucher_sessions.models import MAX_NUMBER

KEY: Final = "ssn_yQGMTeKBSw8OOuFPwlBEjzGy8d8VA9Ts"
SESSION: Final = {"type": "LOCK", "key": KEY, "ttl": 1, "ttl_unit": "HOURS"}
OTHER: Final = {"type": "LOCK", "key": "other", "ttl": 2, "ttl_unit": "HOURS"}


@dataclass(frozen=True)
class RecordedCall:
    """One call of one verb, and what it names."""

    verb: str
    call: Callable[[Any], Any]
    codes: tuple[str, ...]
    session_key: str | None = None
    redemption_id: str | None = None

    def __repr__(self) -> str:
        return f"{self.verb} of {self.codes}"


def _recorded_call(
    verb: str, *args: Any, codes: str = "A", key: str | None = None, id: str | None = None, **options: Any
) -> RecordedCall:
    return RecordedCall(verb, methodcaller(verb, *args, **options), tuple(codes), key, id)


def _all_sessions(engine: Any) -> Any:
    """All that ``iter_sessions`` yields, of the asyncio engine in a coroutine."""
    sessions = engine.iter_sessions("A")
    return items_of(sessions) if isinstance(sessions, AsyncIterator) else list(sessions)


async def items_of(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


_BOTH: Final = [Redeemable(code="A", credits=5), Redeemable(code="B", points=1)]
_TOO_MUCH: Final = [Redeemable(code="A", credits=500), Redeemable(code="B", points=1)]
# Every verb, in every way that it can be answered. Whoever adds a verb adds it here.
RECORDED_CALLS: Final[list[RecordedCall]] = [
    _recorded_call("put_voucher", Voucher(code="A", quantity=9, credits=50)),
    _recorded_call("put_voucher", Voucher(code="A"), used=Used(credits=5)),
    _recorded_call("put_voucher", Voucher(code="A"), if_exists="keep"),
    _recorded_call("put_voucher", Voucher(code="A"), if_exists="raise"),
    _recorded_call("get_voucher", "A"),
    _recorded_call("get_voucher", "C", codes="C"),
    _recorded_call("delete_voucher", "A"),
    _recorded_call("delete_voucher", "C", codes="C"),
    _recorded_call("validate", "A", credits=5),
    _recorded_call("validate", "C", codes="C"),
    _recorded_call("validate", "A", credits=45),  # held
    _recorded_call("validate", "A", credits=7, session=SESSION, key=KEY),
    _recorded_call("validate", "A", credits=500, session=SESSION, key=KEY),
    _recorded_call("validate_stack", _BOTH, codes="AB"),
    _recorded_call("validate_stack", _BOTH, session=SESSION, codes="AB", key=KEY),
    _recorded_call("validate_stack", _BOTH[:1], session=SESSION, release=["B"], codes="A", key=KEY),
    _recorded_call("validate_stack", _TOO_MUCH, session=SESSION, codes="AB", key=KEY),
    _recorded_call("redeem", "A", session=KEY, key=KEY),
    _recorded_call("redeem", "A", credits=5, redemption_id="new", id="new"),
    _recorded_call("redeem", "A", credits=3, redemption_id="order", id="order"),  # a replay
    _recorded_call("redeem", "A", credits=500, session=KEY, key=KEY),
    _recorded_call("redeem", "A", session="gone", key="gone"),
    _recorded_call("redeem", "A"),  # amounts are required
    _recorded_call("redeem", "A", credits=1, redemption_id="rolled back", id="rolled back"),
    _recorded_call("redeem", "C", codes="C"),
    _recorded_call("redeem_stack", _BOTH, session=KEY, redemption_id="new", codes="AB", key=KEY, id="new"),
    _recorded_call("redeem_stack", _TOO_MUCH, session=KEY, codes="AB", key=KEY),
    _recorded_call("redeem_stack", _BOTH, redemption_id="of A", codes="AB", id="of A"),  # a conflict
    _recorded_call("redeem_stack", ["A", "B"], codes="AB"),  # amounts are required
    _recorded_call("release", "A", KEY, key=KEY),
    _recorded_call("release", "A", "gone", key="gone"),
    _recorded_call("release_stack", ["A", "B"], KEY, codes="AB", key=KEY),
    _recorded_call("rollback", "A", "order", id="order"),
    _recorded_call("rollback", "A", "gone", id="gone"),
    _recorded_call("rollback_stack", ["A", "B"], "order", codes="AB", id="order"),
    _recorded_call("rollback", "A", "order", credits=2, rollback_id="new", id="order"),
    _recorded_call("rollback", "A", "rolled back", credits=1, rollback_id="new", id="rolled back"),  # nothing is left
    _recorded_call("rollback", "A", "order", credits=9, rollback_id="part", id="order"),  # a conflict
    _recorded_call("adjust", "A", quantity=1, credits=5, points=-2, adjustment_id="new"),
    _recorded_call("adjust", "A", credits=-51, adjustment_id="new"),  # refused
    _recorded_call("adjust", "A", credits=6, adjustment_id="topped up"),  # a conflict
    _recorded_call("adjust", "C", credits=1, adjustment_id="new", codes="C"),
    _recorded_call("extend", "A", KEY, ttl=3, ttl_unit="HOURS", key=KEY),
    _recorded_call("extend", "A", "gone", key="gone"),
    _recorded_call("extend_stack", ["A", "B"], KEY, codes="AB", key=KEY),
    _recorded_call("get_session", "A", KEY, key=KEY),
    _recorded_call("get_session", "A", "gone", key="gone"),
    _recorded_call("list_sessions", "A"),
    RecordedCall("iter_sessions", _all_sessions, ("A",)),
    _recorded_call("get_redemption", "A", "order", id="order"),
    _recorded_call("get_redemption", "A", "gone", id="gone"),
    _recorded_call("audit", "A"),
    _recorded_call("audit", "C", codes="C"),
    _recorded_call("repair", "A"),
    _recorded_call("repair", "B", codes="B"),  # there is nothing to repair
]


class _ReplyRecorder:
    """Passes on to fakeredis and keeps what each reply has behind its call id."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.replies: list[list[Any]] = []

    def execute_command(self, *command: Any, **options: Any) -> Any:
        reply = self._client.execute_command(*command, **options)
        assert reply[0] == call_id_of(command)
        self.replies.append(reply[1:])
        return reply

    def pipeline(self, **options: Any) -> Any:
        """Scripts that the server does not have are sent with ECHO behind them."""
        return _PipelineRecorder(self, self._client.pipeline(**options))


class _PipelineRecorder:
    def __init__(self, recorder: _ReplyRecorder, pipeline: Any) -> None:
        self._recorder = recorder
        self._pipeline = pipeline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.reset()

    def execute_command(self, *command: Any, **options: Any) -> None:
        self._pipeline.execute_command(*command, **options)

    def execute(self, **options: Any) -> list[Any]:
        replies: list[Any] = self._pipeline.execute(**options)
        reply, echo = replies
        assert reply[0] == echo
        self._recorder.replies.append(reply[1:])
        return replies


def create_vouchers(client: redis.Redis) -> None:
    """A world with two vouchers, two sessions and some redemptions."""
    engine = VoucherSessions(client)
    for code in "AB":
        engine.put_voucher(Voucher(code=code, quantity=10, credits=50, points=5))
        engine.redeem(code, credits=3, redemption_id="order")
        engine.validate(code, credits=4, session=SESSION)
        engine.validate(code, credits=4, session=OTHER)
    engine.redeem("A", credits=0, redemption_id="of A")
    engine.redeem("A", credits=1, redemption_id="rolled back")
    engine.rollback("A", "rolled back")
    engine.redeem("A", credits=4, redemption_id="in parts")
    engine.rollback("A", "in parts", credits=1, rollback_id="part")
    engine.adjust("A", credits=5, adjustment_id="topped up")


def books(engine: VoucherSessions, *codes: str) -> list[Any]:
    """All that there is of these vouchers, by default of the two, without its times."""
    found: list[Any] = []
    for code in codes or "AB":
        try:
            found.append(engine.get_voucher(code))
            live = [(each.key, each.credits, each.points) for each in engine.list_sessions(code)]
            found.append(sorted(live))
        except VoucherNotFound:
            found.append(None)
        for id_ in ("order", "new", "of A", "x", "}:session:x"):
            try:
                receipt = engine.get_redemption(code, id_).model_dump(exclude={"redeemed_at"})
            except RedemptionNotFound:
                receipt = {}
            found.append(receipt)
    return found


def right_replies(recorded_call: RecordedCall) -> list[list[Any]]:
    """What a server answers to the commands of this call, behind the call id: to one command, but for audits."""
    with fakeredis.FakeRedis() as client:
        create_vouchers(client)
        if recorded_call.verb == "repair" and recorded_call.codes == ("A",):
            client.zremrangebyrank("vs:{A}:locks", 0, 0)
        recorder = _ReplyRecorder(client)
        try:
            recorded_call.call(untyped.VoucherSessions(recorder))
        except VoucherSessionsError as error:
            assert_error(error, recorded_call)
        return recorder.replies


def models(result: Any) -> Iterator[BaseModel]:
    """All models in a result, to the innermost."""
    if isinstance(result, list):
        for each in result:
            yield from models(each)
    elif isinstance(result, BaseModel):
        yield result
        for value in dict(result).values():
            yield from models(value)


def assert_sound(result: Any, recorded_call: RecordedCall) -> None:
    """Right types, no number out of range, and nothing that contradicts itself or the request."""
    for model in models(result):
        type(model).model_validate(model.model_dump(), strict=True)
        least = -MAX_NUMBER if isinstance(model, Adjustment) else 0
        numbers = [value for value in dict(model).values() if isinstance(value, int)]
        assert all(least <= number <= MAX_NUMBER for number in numbers), model
    match result:
        case bool():
            assert recorded_call.verb == "delete_voucher"
        case VoucherState():
            assert (recorded_call.verb, (result.code,)) in {
                ("put_voucher", recorded_call.codes),
                ("get_voucher", recorded_call.codes),
            }
            _assert_balances(result)
        case Validation():
            assert (recorded_call.verb, (result.code,)) == ("validate", recorded_call.codes)
            _assert_validation(result, recorded_call)
        case StackValidation(validations=validations):
            assert recorded_call.verb == "validate_stack"
            assert tuple(each.code for each in validations) == recorded_call.codes
            _assert_stack(result, recorded_call)
        case Redemption():
            assert recorded_call.verb in {"redeem", "get_redemption"}
            _assert_redemptions([result], recorded_call)
        case StackRedemption(redemptions=redemptions):
            assert recorded_call.verb == "redeem_stack"
            assert all(each.id == result.id for each in redemptions)
            assert result.replayed == all(each.replayed for each in redemptions)
            _assert_redemptions(redemptions, recorded_call)
        case Release() | Rollback():
            assert_sound(
                [result],
                RecordedCall(
                    f"{recorded_call.verb}_stack",
                    recorded_call.call,
                    recorded_call.codes,
                    recorded_call.session_key,
                    recorded_call.redemption_id,
                ),
            )
        case list():
            _assert_list(result, recorded_call)
        case _:
            _assert_another(result, recorded_call)


def _assert_another(result: Any, recorded_call: RecordedCall) -> None:
    match result:
        case Adjustment():
            assert (recorded_call.verb, (result.code,)) == ("adjust", recorded_call.codes)
            if result.voucher is not None:
                _assert_balances(result.voucher)
        case ActiveSession():
            assert recorded_call.verb in {"extend", "get_session"}
            assert (result.key, result.quantity) == (recorded_call.session_key, 1)
        case _:
            _assert_audit(result, recorded_call)


def _assert_balances(state: VoucherState) -> None:
    for balance in (state.quantity, state.credits, state.points):
        limit = balance.limit
        assert balance.available == (None if limit is None else max(0, limit - balance.used - balance.locked))


def _assert_stack(answer: StackValidation, recorded_call: RecordedCall) -> None:
    assert answer.valid == all(each.valid for each in answer.validations)
    assert (answer.session is not None) == any(each.session for each in answer.validations)
    for each in answer.validations:
        _assert_validation(each, recorded_call, locked=answer.valid)


def _assert_validation(answer: Validation, recorded_call: RecordedCall, *, locked: bool = True) -> None:
    assert answer.valid == (answer.reason is None)
    assert answer.locked_by_others == (answer.retry_after_ms is not None)
    assert not (answer.valid and answer.locked_by_others)
    if recorded_call.session_key is None:
        assert answer.session is None
    if answer.session is not None:
        assert (answer.session.key, answer.session.quantity) == (recorded_call.session_key, 1)
    elif recorded_call.session_key is not None and locked:
        assert not answer.valid, "valid for a session, and nothing locked"


def _assert_redemptions(redemptions: list[Redemption], recorded_call: RecordedCall) -> None:
    assert tuple(each.code for each in redemptions) == recorded_call.codes
    for each in redemptions:
        assert each.credits_rolled_back <= each.credits
        assert each.points_rolled_back <= each.points
        if recorded_call.redemption_id is not None:
            assert each.id == recorded_call.redemption_id
        if recorded_call.verb != "get_redemption":
            assert each.session_key == recorded_call.session_key


def _assert_audit(found: Any, recorded_call: RecordedCall) -> None:
    assert isinstance(found, Audit), f"{recorded_call.verb} answered {found!r}"
    assert recorded_call.verb in {"audit", "repair"}
    assert (found.code,) == recorded_call.codes
    assert found.differs == (found.recorded != found.counted or not found.expiries_agree)


def _assert_list(results: list[Any], recorded_call: RecordedCall) -> None:
    lists = {"list_sessions", "iter_sessions", "extend_stack"}
    kinds = dict.fromkeys(lists, ActiveSession) | {"release_stack": Release, "rollback_stack": Rollback}
    assert all(type(each) is kinds[recorded_call.verb] for each in results)
    if recorded_call.verb in lists:
        assert all(each.key and each.quantity == 1 for each in results)
    else:
        assert tuple(each.code for each in results) == recorded_call.codes


def assert_error(error: VoucherSessionsError, recorded_call: RecordedCall) -> None:
    """Clear, and true of the request."""
    assert str(error)
    for name in ("code", "codes"):
        names = getattr(error, name, ())
        assert set((names,) if isinstance(names, str) else names) <= {*recorded_call.codes, "B"}
    if isinstance(error, LimitExceeded):
        for each in error.refusals:
            assert type(each.requested) is type(each.available) is int
            assert 0 <= each.requested <= MAX_NUMBER
            assert 0 <= each.available <= MAX_NUMBER
            assert type(each.locked_by_others) is bool
            assert each.locked_by_others == (each.retry_after_ms is not None)
            assert each.retry_after_ms is None or 0 <= each.retry_after_ms <= MAX_NUMBER
