"""Which errors an engine raises for failed servers and lost connections."""

from __future__ import annotations

from operator import methodcaller

import pytest
import redis
import redis.exceptions

from core.both_engines import CHANGING, READING, on_both
from voucher_sessions import CorruptState, OutcomeUnknown, ServerRefused, ServerUnavailable
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs


@pytest.mark.parametrize("act", CHANGING)
@pytest.mark.parametrize("error", [redis.exceptions.ConnectionError, redis.exceptions.TimeoutError])
def test_a_lost_reply_of_a_changing_verb_is_an_unknown_outcome(act: methodcaller, error: type[Exception]) -> None:
    for seen in on_both(act, error("gone")):
        assert isinstance(seen, OutcomeUnknown)
        assert isinstance(seen, redis.exceptions.ConnectionError)
        assert seen.codes == ("A",)
        assert isinstance(seen.__cause__, error)


def test_an_unknown_outcome_carries_what_was_generated() -> None:
    for seen in on_both(CHANGING[2], redis.exceptions.ConnectionError("gone")):
        assert seen.session_key.startswith("ssn_")
        assert seen.redemption_id is None
    for seen in on_both(CHANGING[3], redis.exceptions.ConnectionError("gone")):
        assert seen.session_key == "cart"
        assert seen.redemption_id.startswith("rdm_")


@pytest.mark.parametrize("act", READING)
def test_a_lost_reply_of_a_reading_verb_has_changed_nothing(act: methodcaller) -> None:
    for seen in on_both(act, redis.exceptions.ConnectionError("gone")):
        assert type(seen) is ServerUnavailable
        assert (seen.problem, type(seen.__cause__)) == ("gone", redis.exceptions.ConnectionError)


REFUSALS = [
    redis.exceptions.ReadOnlyError("READONLY replica"),
    redis.exceptions.OutOfMemoryError("OOM command not allowed"),
    redis.exceptions.NoPermissionError("NOPERM"),
    redis.exceptions.ResponseError("BUSY Redis is busy"),
    redis.exceptions.ResponseError("MISCONF errors writing to disk"),
    redis.exceptions.ResponseError("NOREPLICAS not enough good replicas"),
    redis.exceptions.ResponseError("unknown command 'EVALSHA'"),
    redis.exceptions.ResponseError("ERR whatever"),
]


@pytest.mark.parametrize("act", CHANGING + READING)
@pytest.mark.parametrize("error", REFUSALS, ids=str)
def test_an_error_of_the_server_is_raised_with_its_remedy(act: methodcaller, error: Exception) -> None:
    for seen in on_both(act, error):
        assert isinstance(seen, ServerRefused)
        assert isinstance(seen, redis.exceptions.ResponseError)
        assert (seen.codes, seen.__cause__) == (("A",), error)
        assert str(error) in str(seen)
        assert seen.remedy in str(seen)


def test_each_server_error_has_its_own_remedy() -> None:
    # redis-py takes the code away from the text of an error that it has a class for.
    by_class = [redis.exceptions.ReadOnlyError("replica"), redis.exceptions.OutOfMemoryError("command not allowed")]
    texts = {seen.remedy for error in (*by_class, *REFUSALS[2:]) for seen in on_both(READING[0], error)}
    assert len(texts) == 8


def test_a_refused_password_is_raised_unchanged() -> None:
    error = redis.exceptions.AuthenticationError("WRONGPASS")
    for act in CHANGING + READING:
        for seen in on_both(act, error):
            assert seen is error


def test_a_refused_password_that_redis_asyncio_wraps_is_no_unknown_outcome() -> None:
    error = redis.exceptions.ConnectionError("invalid username-password pair")
    error.__cause__ = redis.exceptions.AuthenticationError("WRONGPASS")
    for act in CHANGING + READING:
        for seen in on_both(act, error):
            assert seen is error


class Unchangeable(Exception):
    """An exception of the application whose attributes are fixed."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class EqualToAll(redis.exceptions.ConnectionError):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = Exception.__hash__


SECRET = "redis://user:secret@host"


@pytest.mark.parametrize(
    "behind", [OSError(2, SECRET), EqualToAll(SECRET), ValueError(SECRET), Unchangeable()], ids=repr
)
@pytest.mark.parametrize("chained", ["__cause__", "__context__"])
def test_no_error_behind_an_error_shows_a_password(behind: Exception, chained: str) -> None:
    error = EqualToAll(SECRET)
    setattr(error, chained, behind)
    for act in CHANGING + READING:
        for seen in on_both(act, error):
            assert seen.__cause__ is error
            assert "secret@" not in f"{seen} {seen!r} {error} {error!r} {behind} {behind!r}"


@pytest.mark.parametrize("text", ["WRONGTYPE Operation against a key", "CORRUPT vs:{A}"])
def test_a_stored_value_that_a_later_try_finds_says_nothing_about_an_earlier_one(text: str) -> None:
    call = Verbs(Keys("vs")).redeem("A", None, None, None, "order", "raise")
    error = redis.exceptions.ResponseError(f"{text} script: f_1, on @user_script:12.")
    assert "nothing was changed" in str(call.error_for(error))
    call.may_have_run = True
    found = call.error_for(error)
    assert type(found) is CorruptState
    assert "this try changed nothing, but an earlier one may have" in str(found)
