"""No error shows a session key, and neither does any error that it was raised from."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pytest
import redis
import redis.asyncio
from pydantic import BaseModel, ValidationError
from support import untyped
from support.scripted_clients import ScriptedClient
from support.servers import BINARIES, Server, running

from faults.recorded_replies import KEY, RECORDED_CALLS, RecordedCall
from faults.recording_clients import assert_no_session_key
from faults.test_hostile_replies import all_similar_replies, on_both, outcome
from voucher_sessions import (
    AsyncVoucherSessions,
    NotDurable,
    OutcomeUnknown,
    Release,
    Session,
    SessionFields,
    SessionNotFound,
    VoucherSessions,
    VoucherSessionsError,
)
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs


@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
def test_no_error_about_an_invalid_reply_shows_a_session_key(recorded_call: RecordedCall) -> None:
    """Neither this library's error nor an error that is chained to it."""
    for answers in all_similar_replies(recorded_call):
        error = outcome(partial(recorded_call.call, untyped.VoucherSessions(ScriptedClient(*answers))))
        if isinstance(error, VoucherSessionsError):
            assert_no_session_key(error)


@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ConnectionError("gone"),
        redis.exceptions.TimeoutError("late"),
        redis.exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis.exceptions.ResponseError("CORRUPT vs:{A}"),
        redis.exceptions.OutOfMemoryError("OOM"),
        redis.exceptions.TryAgainError("TRYAGAIN"),
        redis.exceptions.ResponseError(
            f"unknown command 'EVAL', with args beginning with: '0a' '2' 'vs:{{A}}' '{KEY}' "
        ),
        redis.exceptions.ResponseError(f"ERR unknown command `EVAL`, with args beginning with: `0a`, `{KEY[:-9]}"),
    ],
    ids=repr,
)
def test_no_error_about_a_failed_command_shows_a_session_key(recorded_call: RecordedCall, error: Exception) -> None:
    for error_seen in on_both(recorded_call, error):
        assert_no_session_key(error_seen)


@pytest.fixture(scope="module", params=list(BINARIES))
def hidden_commands(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that does not know the commands of scripts and logins, and quotes their arguments in its errors."""
    configuration = tmp_path_factory.mktemp("server") / "hidden.conf"
    configuration.write_text("".join(f"rename-command {name} hidden-{name}\n" for name in ("EVALSHA", "EVAL", "AUTH")))
    with running(request.param, include=str(configuration)) as server:
        yield server


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("password", "through_the_client"), [(None, False), (None, True), (KEY, False)])
def test_no_error_shows_the_arguments_of_a_command_that_the_server_does_not_know(
    hidden_commands: Server, password: str | None, asynchronous: bool, through_the_client: bool
) -> None:
    options: dict[str, Any] = {"password": password, "single_connection_client": through_the_client, "protocol": 2}
    session: SessionFields = {"type": "LOCK", "key": KEY}

    def errors() -> Iterator[Any]:
        with VoucherSessions(hidden_commands.client(**options)) as engine:
            pipe = engine.pipeline().validate("A", session=session).redeem("A", session=KEY).redeem("B", session=KEY)
            yield from pipe.execute(raise_on_error=False)
            yield outcome(lambda: engine.validate_stack(["A", "B"], session=session))
            yield outcome(engine.ping)

    async def asyncio_errors() -> list[Any]:
        client = redis.asyncio.Redis(unix_socket_path=hidden_commands.socket, **options)
        async with client, AsyncVoucherSessions(client) as engine:
            pipe = engine.pipeline().validate("A", session=session).redeem("A", session=KEY).redeem("B", session=KEY)
            alone = engine.validate_stack(["A", "B"], session=session), engine.ping()
            return [*await pipe.execute(raise_on_error=False), *await asyncio.gather(*alone, return_exceptions=True)]

    found = asyncio.run(asyncio_errors()) if asynchronous else list(errors())
    assert len(found) == 5
    for each in found[:4]:
        assert "unknown command" in f"{each} {each.__cause__} {each.__context__}".lower()
    for each in filter(None, found):
        assert_no_session_key(each)


ERRORS: Final[list[VoucherSessionsError]] = [
    SessionNotFound(KEY, "A", "B"),
    OutcomeUnknown("validate", ("A",), session_key=KEY, redemption_id="order"),
    NotDurable("release", "no replica", Release(code="A", session_key=KEY, released=True, ended=False)),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_with_a_session_key_do_not_show_it(error: VoucherSessionsError) -> None:
    assert_no_session_key(error)
    assert KEY in str(vars(error)) or error.__dict__["result"].session_key == KEY


TOO_LONG: Final = KEY * 8
BAD_SESSIONS: Final[list[Any]] = [
    {"type": "LOCK", "key": TOO_LONG},
    {"type": "LOCK", "key": KEY + "\ud800"},
    {"type": "LOCK", "key": KEY.encode()},
    {"type": "LOCK", "key": [KEY]},
    {"type": "LOCK", "key": {"key": KEY}},
    {"type": "LOCK", "key": KEY, "ttl": 5},
    {"type": "LOCK", "key": KEY, "ttl": KEY, "ttl_unit": "DAYS"},
    {"type": "LOCK", "key": KEY, "ttl": 5, "ttl_unit": KEY},
    {"type": KEY},
    {"type": "LOCK", "session_key": KEY},
    {"key": KEY, "type": 5},
    [KEY],
    KEY.encode(),
]


@pytest.mark.parametrize("session", [*BAD_SESSIONS, KEY])
def test_no_refusal_of_a_session_shows_its_key(session: Any) -> None:
    calls = Verbs(Keys("vs"), None)
    with pytest.raises(VoucherSessionsError) as refused:
        calls.validate("A", 0, 0, session)
    assert_no_session_key(refused.value)
    with pytest.raises(ValueError, match="Session") as refused_model:
        Session.model_validate(session)
    assert_no_session_key(refused_model.value)


@pytest.mark.parametrize("key", [TOO_LONG, KEY + "\ud800", KEY.encode(), [KEY]])
def test_no_refusal_of_a_bare_key_shows_it(key: Any) -> None:
    calls = Verbs(Keys("vs"), None)
    for refuse in (
        lambda: calls.redeem("A", None, None, key, None, "raise"),
        lambda: calls.release("A", key),
        lambda: calls.release_stack(["A"], key),
        lambda: calls.extend("A", key, None, None),
        lambda: calls.extend_stack(["A"], key, None, None),
        lambda: calls.get_session("A", key),
    ):
        with pytest.raises(VoucherSessionsError) as refused:
            refuse()
        assert_no_session_key(refused.value)


@pytest.mark.parametrize("wrong", [{"ttl": 5}, {"ttl": 0, "ttl_unit": "DAYS"}, {"ttl_unit": "WEEKS"}, {"type": "HOLD"}])
def test_a_hosts_own_model_does_not_show_the_key(wrong: dict[str, Any]) -> None:
    class Body(BaseModel):
        session: Session

    with pytest.raises(ValidationError) as refused:
        Body.model_validate({"session": {"type": "LOCK", "key": KEY} | wrong})
    assert_no_session_key(refused.value)
