"""From an error to the exit status of the command, and to what is printed about it."""

from __future__ import annotations

import json
from shlex import quote
from typing import Final

import typer
from pydantic import BaseModel
from redis.exceptions import RedisClusterException, RedisError

from voucher_sessions import (
    CorruptState,
    EmbeddedServerError,
    InvalidRequest,
    NotDurable,
    OutcomeUnknown,
    ServerRefused,
    ServerUnavailable,
    VoucherSessionsError,
)
from voucher_sessions.cli.output import Output, shown, without_credentials

DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
SERVER: Final = 3
# A process that ends because of a signal has the status 128 + its number.
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 141
TERMINATED: Final = 143

# What a client of redis-py raises, for example for a wrong password.
CLIENT_ERRORS: Final = (RedisError, RedisClusterException)
FAILURES: Final = (VoucherSessionsError, OSError, *CLIENT_ERRORS)

_OF_THE_SERVER: Final = (
    ServerUnavailable,
    ServerRefused,
    OutcomeUnknown,
    NotDurable,
    CorruptState,
    EmbeddedServerError,
    *CLIENT_ERRORS,
)


class WrongUsage(typer.TyperException):
    """The command line is wrong. The text says what to change; it has no value that was given."""

    exit_code = USAGE


def exit_status(error: Exception) -> int:
    """The exit status for an error."""
    if isinstance(error, _OF_THE_SERVER):
        return SERVER
    return USAGE if isinstance(error, InvalidRequest | OSError) else REFUSED


def print_failure(output: Output, error: Exception, *, shows_session_key: bool = False) -> None:
    """Print an error to stderr: one line of text, or with ``--json`` one line of JSON.

    ``shows_session_key``: the command generated the session key, so it shows the key that repeats the call.
    """
    message = _message(error, shows_session_key=shows_session_key)
    if output.as_json:
        facts = {"error": type(error).__name__, "message": message, **_facts(error)}
        line = output.jsonable(facts, whole_keys=shows_session_key)
        typer.echo(without_credentials(json.dumps(line)), err=True)
    else:
        output.note(f"Error: {message}", style="red")


def _message(error: Exception, *, shows_session_key: bool) -> str:
    """The text of the error in one line. If the outcome is unknown, with the options that repeat the command."""
    if isinstance(error, OSError):  # without the name of the file: a URL may have been given in its place
        return f"a file cannot be read or written: {error.strerror or error}"
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, OutcomeUnknown):
        return text
    redeemed = error.redemption_id if error.verb == "redeem" else None  # rollback has it as an argument, not as --id
    ids = [redeemed, error.rollback_id, error.adjustment_id]
    # An id that is not shown as it is was given on the command line, and its escaped form would be another id.
    options = [f"--id {quote(id)}" for id in ids if id is not None and shown(id) == id]
    if shows_session_key and error.session_key is not None:
        options.append(f"--session {quote(error.session_key)}")
    return f"{text}: {' '.join(options)}" if options else text


def _facts(error: Exception) -> dict[str, object]:
    """The attributes of the library's errors, as far as JSON can hold them."""
    facts: dict[str, object] = {}
    for name, value in vars(error).items() if isinstance(error, VoucherSessionsError) else ():
        if isinstance(value, BaseModel):
            facts[name] = value.model_dump(mode="json")
        elif isinstance(value, str | int | None):
            facts[name] = value
        elif isinstance(value, tuple) and all(isinstance(each, str) for each in value):
            facts[name] = list(value)
    return facts
