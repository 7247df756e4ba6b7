"""The options and arguments that several commands have."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal, NamedTuple

import typer

from voucher_sessions import TtlUnit

COMMON: Final = "Options of every command, before or after its name"

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The server: redis://, rediss://, unix://, redis+cluster://, redis+sentinel:// or embedded:///FOLDER; "
        "without this option, VOUCHER_SESSIONS_URL from the environment.",
        rich_help_panel=COMMON,
    ),
]
Prefix = Annotated[
    str | None, typer.Option(metavar="TEXT", help="The beginning of all keys; vs if left out.", rich_help_panel=COMMON)
]
Partition = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:NAME",
        help="The partition= function of the engines of this prefix, if they have one.",
        rich_help_panel=COMMON,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=COMMON)]
ShowKeys = Annotated[bool, typer.Option("--show-keys", help="Show session keys in full.", rich_help_panel=COMMON)]

Code = Annotated[str, typer.Argument(metavar="CODE", help="The voucher's code.")]
SessionKey = Annotated[str, typer.Option("--session", metavar="KEY", help="The session's key.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
IfExists = Literal["update", "keep", "raise"]
FileFormat = Literal["csv", "jsonl"]
Format = Annotated[
    FileFormat | None, typer.Option("--format", help="csv or jsonl, if the file's name does not end with it.")
]

# How a time to live is written on the command line, and what its units mean.
_TTL: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_UNITS: Final = {
    "ms": TtlUnit.MILLISECONDS,
    "s": TtlUnit.SECONDS,
    "m": TtlUnit.MINUTES,
    "h": TtlUnit.HOURS,
    "d": TtlUnit.DAYS,
}


class TimeToLive(NamedTuple):
    """A time to live as the engine takes it."""

    ttl: float
    unit: TtlUnit

    @property
    def timedelta(self) -> timedelta:
        """The same as a ``timedelta``; one that Python cannot hold is too long for an engine, too."""
        try:
            return timedelta(**{self.unit.lower(): self.ttl})
        except OverflowError:
            return timedelta.max


def time_to_live(text: str) -> TimeToLive:
    """Read a time to live such as 15m or 500ms. The text is not quoted in an error: it may be anything."""
    found = _TTL.fullmatch(text)
    if not found:
        raise typer.BadParameter("must be a number and a unit: 500ms, 90s, 15m, 2h or 1d")
    number, unit = found.groups()
    return TimeToLive(float(number) if "." in number else int(number), _UNITS[unit])


Ttl = Annotated[
    TimeToLive,
    typer.Option(
        "--ttl", metavar="TIME", parser=time_to_live, help="How long it lives from now on: 500ms, 90s, 15m, 2h, 1d."
    ),
]
