"""The recorder of calls: what it keeps, in memory and in a log that survives its process."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from faults.history import Op, Recorder, load
from faults.linearizable import check
from voucher_sessions import AsyncVoucherSessions, LimitExceeded, OutcomeUnknown, Redeemable, Voucher, VoucherSessions


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
            stack = [Redeemable(code="A", credits=3), Redeemable(code="B", credits=0)]
            for code in "AB":
                await recorder.acall(engine, "put_voucher", Voucher(code=code, quantity=1, credits=5))
            await recorder.acall(engine, "validate_stack", stack, session={"type": "LOCK", "key": "k"})
            await recorder.acall(engine, "release_stack", ["B", "A"], "k")
            await recorder.acall(engine, "validate_stack", stack[1:], session={"type": "LOCK", "key": "k"})
            await recorder.acall(
                engine, "validate_stack", stack[:1], session={"type": "LOCK", "key": "k"}, release=["B"]
            )
            stack[1:] = [Redeemable(code="B", credits=0)]  # without a session, its amount is named
            done = await recorder.acall(engine, "redeem_stack", stack, session="k", if_session_missing="redeem")
            await recorder.acall(engine, "rollback_stack", ["A", "B"], done.id)
            return recorder.history

    history = asyncio.run(record())
    assert [each.verb for each in history[2:]] == ["validate", "release", "validate", "validate", "redeem", "rollback"]
    check(history)
    assert history[-2].args["id"].startswith("rdm_")
    with pytest.raises(AssertionError):
        check([each for each in history if each.verb != "redeem"])


class EngineWithLostReplies:
    """An engine whose replies are lost."""

    def redeem(self, code: str, **_: Any) -> None:
        raise OutcomeUnknown("redeem", (code,), redemption_id="rdm_told")

    def validate(self, code: str, **_: Any) -> None:
        raise KeyboardInterrupt


def test_a_lost_reply_is_recorded_as_unknown_with_what_the_engine_generated(tmp_path: Path) -> None:
    recorder = Recorder("one", tmp_path / "log")
    with pytest.raises(OutcomeUnknown):
        recorder.call(EngineWithLostReplies(), "redeem", "A")
    with pytest.raises(KeyboardInterrupt):
        recorder.call(EngineWithLostReplies(), "validate", "A", session={"type": "LOCK"})
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
