"""Which failures a call retries while a failover may be in progress, and what it raises when it gives up."""

from __future__ import annotations

from operator import methodcaller
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.exceptions
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.sentinel import MasterNotFoundError, Sentinel
from support.scripted_clients import ScriptedClient

from core.both_engines import CHANGING, READING, on_both_counted
from voucher_sessions import OutcomeUnknown, ServerRefused, ServerUnavailable, Used, Voucher
from voucher_sessions._core import call
from voucher_sessions._transport import clients

NOT_RUN: list[Exception] = [
    redis.exceptions.TryAgainError("TRYAGAIN"),
    redis.exceptions.ClusterError("TTL exhausted."),
    redis.exceptions.ClusterDownError("CLUSTERDOWN"),
    redis.exceptions.MasterDownError("MASTERDOWN"),
    redis.exceptions.SlotNotCoveredError("Slot 5 is not covered"),
    redis.exceptions.BusyLoadingError("LOADING"),
]
LOST: list[Exception] = [
    redis.exceptions.ConnectionError("gone"),
    redis.exceptions.TimeoutError("late"),
    redis.exceptions.RedisClusterException("Redis Cluster cannot be connected"),
    MasterNotFoundError("No master found"),
]
PERMANENT: list[Exception] = [
    redis.exceptions.AuthenticationError("WRONGPASS"),
    redis.exceptions.AuthorizationError("denied"),
    redis.exceptions.NoPermissionError("NOPERM"),
    redis.exceptions.OutOfMemoryError("OOM"),
    redis.exceptions.ReadOnlyError("READONLY"),
]
STATE = [b"state", -1, 0, 0, 0, 0, 0, 0, 0, 0]
REPLIES: dict[str, list[Any]] = {
    "put_voucher": [b"put", 1, *STATE[1:]],
    "get_voucher": STATE,
    "delete_voucher": [b"deleted", 1],
    "validate": [b"answered", 5, b"", 0, 0, 1, 1, 1, 9, 0, 0],
    "redeem": [b"receipts", b"1 life 1 0 0 5 call - - cart"],
    "release": [b"released", 1],
    "rollback": [b"receipts", b"1 life 1 0 0 5 call - 0,0,call -"],
    "list_sessions": [b"sessions", 5],
    "get_redemption": [b"receipts", b"1 life 1 0 0 5 call - - "],
}
VERBS = CHANGING + READING
BRINGS = methodcaller("put_voucher", Voucher(code="A"), used=Used())


class VerbNames:
    """Answers each verb with its name."""

    def __getattr__(self, verb: str) -> Any:
        return lambda *_, **__: verb


def verb_of(act: methodcaller) -> str:
    verb: str = act(VerbNames())
    return verb


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1 ms between retries, for 20 s."""
    monkeypatch.setattr(clients, "retry_period_seconds", lambda client: 20)
    monkeypatch.setattr(call, "uniform", lambda shortest, longest: 0.001)


@pytest.fixture
def short_retry_period(short_pauses: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 50 ms."""
    monkeypatch.setattr(clients, "retry_period_seconds", lambda client: 0.05)


@pytest.mark.parametrize("error", NOT_RUN, ids=repr)
@pytest.mark.parametrize("act", [*VERBS, BRINGS], ids=verb_of)
def test_a_command_that_did_not_run_is_sent_again(short_pauses: None, act: methodcaller, error: Exception) -> None:
    for outcome, sent in on_both_counted(act, error, error, REPLIES[verb_of(act)]):
        assert not isinstance(outcome, Exception)
        assert sent == 3


@pytest.mark.parametrize("error", LOST, ids=repr)
@pytest.mark.parametrize("act", [*VERBS, BRINGS], ids=verb_of)
def test_a_call_whose_reply_was_lost_is_sent_again(short_pauses: None, act: methodcaller, error: Exception) -> None:
    for outcome, sent in on_both_counted(act, error, REPLIES[verb_of(act)]):
        assert not isinstance(outcome, Exception)
        assert sent == 2


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
@pytest.mark.parametrize("act", VERBS, ids=verb_of)
def test_permanent_errors_are_raised_once_they_are_proven(
    short_pauses: None, act: methodcaller, error: Exception
) -> None:
    for outcome, sent in on_both_counted(act, error):
        assert outcome is error or (isinstance(outcome, ServerRefused) and outcome.__cause__ is error)
        assert sent == 3  # EVALSHA; EVAL with ECHO behind it


@pytest.mark.parametrize("error", [NOT_RUN[1], LOST[0], LOST[2]], ids=repr)
def test_retries_end_after_the_retry_period(short_retry_period: None, error: Exception) -> None:
    """A client may have sent the command before: that the last try did not run says nothing of the first."""
    for outcome, sent in on_both_counted(CHANGING[3], *[error] * 200):
        assert isinstance(outcome, OutcomeUnknown)
        assert (outcome.session_key, outcome.__cause__) == ("cart", error)
        assert 1 < sent < 200
    for outcome, _ in on_both_counted(READING[0], *[error] * 200):
        assert isinstance(outcome, ServerUnavailable)
        assert outcome.__cause__ is error


def test_a_script_that_may_have_ended_half_way_is_not_sent_again(
    short_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost when ECHO should prove that the error is this call's."""
    reply = ScriptedClient.reply

    def without_echo(self: ScriptedClient, command: tuple[Any, ...]) -> Any:
        if command[0] == "ECHO":
            self.sent.append(command)
            raise redis.exceptions.ConnectionError("gone")
        return reply(self, command)

    monkeypatch.setattr(ScriptedClient, "reply", without_echo)
    in_script = redis.exceptions.ResponseError("OOM command not allowed, script: f_1, on @user_script:9.")
    for outcome, sent in on_both_counted(CHANGING[3], in_script):
        assert isinstance(outcome, OutcomeUnknown)
        assert sent == 2  # EVALSHA and ECHO


def test_a_mistake_in_the_applications_code_is_raised_as_it_is(short_pauses: None) -> None:
    mistake = AttributeError("'NoneType' object has no attribute 'writelines'")
    for outcome, sent in on_both_counted(CHANGING[3], mistake):
        assert outcome is mistake
        assert sent == 1


@pytest.mark.parametrize("mistake", [AttributeError("x"), TypeError("x"), RuntimeError("x")], ids=repr)
def test_a_mistake_while_connecting_is_no_lost_reply(short_pauses: None, mistake: Exception) -> None:
    """redis.asyncio raises it as a ConnectionError that is chained to it."""
    error = redis.exceptions.ConnectionError("x")
    error.__cause__ = mistake
    for outcome, sent in on_both_counted(CHANGING[3], error):
        assert outcome is error
        assert sent == 1


def test_only_clients_that_know_of_a_failover_wait_for_one() -> None:
    assert clients.retry_period_seconds(redis.Redis()) == 0
    assert clients.retry_period_seconds(redis.asyncio.Redis()) == 0
    assert clients.retry_period_seconds(Sentinel([("127.0.0.1", 1)]).master_for("till")) > 0
    assert clients.retry_period_seconds(AsyncSentinel([("127.0.0.1", 1)]).master_for("till")) > 0
    assert clients.retry_period_seconds(redis.asyncio.RedisCluster(host="127.0.0.1", port=1)) > 0
