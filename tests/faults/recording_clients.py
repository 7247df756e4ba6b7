"""Clients that record commands instead of sending them, and checks of the errors that an engine raises."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, Self

from faults.recorded_replies import KEY, items_of
from voucher_sessions import AsyncVoucherSessions, InvalidRequest, VoucherSessions

ENGINES: Final = (VoucherSessions, AsyncVoucherSessions)


class Sent(Exception):
    """A command went out."""


class RecordingClient:
    """A client that keeps what it is to send, and sends nothing."""

    def __init__(self) -> None:
        self.commands: list[tuple[Any, ...]] = []

    def execute_command(self, *command: Any, **_: Any) -> Any:
        self.commands.append(command)
        raise Sent

    def pipeline(self, **_: Any) -> _Pipeline:
        return _Pipeline(self.commands)


class AsyncRecordingClient(RecordingClient):
    async def execute_command(self, *command: Any, **options: Any) -> Any:
        super().execute_command(*command, **options)


class _Pipeline:
    """The same of both kinds of pipelines."""

    def __init__(self, commands: list[tuple[Any, ...]]) -> None:
        self._commands = commands

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def execute_command(self, *command: Any, **_: Any) -> None:
        self._commands.append(command)

    def execute(self, **_: Any) -> Any:
        raise Sent


def recording_client_for(engine: type[Any]) -> RecordingClient:
    return RecordingClient() if engine is VoucherSessions else AsyncRecordingClient()


def run(engine: Any, verb: str, arguments: dict[str, Any], *, piped: bool = False) -> Any:
    """Call it; a coroutine too runs through at once, since the recorder never waits."""
    result = getattr(engine.pipeline(), verb)(**arguments).execute() if piped else getattr(engine, verb)(**arguments)
    if isinstance(result, AsyncIterator):
        result = items_of(result)
    if isinstance(result, Iterator):
        return list(result)
    if isinstance(result, Coroutine):
        try:
            result.send(None)
        finally:
            result.close()
    return result


def outcome(run: Callable[[], Any]) -> Any:
    """What it returns; or the refusal, if it is in good order; or ``Sent``."""
    try:
        return run()
    except (InvalidRequest, Sent) as error:
        if isinstance(error, InvalidRequest):
            assert_well_formed(error)
        return error


def assert_well_formed(refused: InvalidRequest) -> None:
    assert isinstance(refused, ValueError)
    assert refused.problem
    assert str(refused) == f"{refused.field}: {refused.problem}"
    assert len(str(refused)) < 1000
    str(refused).encode()  # whoever logs it must be able to


def concerns(field: str | None, name: str) -> bool:
    """Whether what is refused is this parameter, or a part of it, or what is of no use without it."""
    names = {"session": ("session", "release"), "ttl_unit": ("ttl_unit", "ttl")}.get(name, (name,))
    return field is None or field in names or field.startswith((f"{name}.", f"{name}("))


def texts_of(error: BaseException) -> Iterator[str]:
    """All that anybody could print of an error and of those behind it, suppressed or not."""
    seen: list[BaseException] = []
    behind: list[BaseException | None] = [error]
    while behind:
        each = behind.pop()
        if each is not None and each not in seen:
            seen.append(each)
            behind += [each.__cause__, each.__context__]
            yield from (str(each), repr(each), f"{each}", *map(str, getattr(each, "__notes__", ())))
            yield from traceback.format_exception(each)


def assert_no_session_key(error: BaseException) -> None:
    for text in texts_of(error):
        assert KEY not in text
        assert KEY[4:] not in text
