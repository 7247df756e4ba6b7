"""What a command prints: its result to stdout, as text or JSON, and everything else to stderr."""

from __future__ import annotations

import errno
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import typer
from pydantic import BaseModel
from rich.console import Console as RichConsole
from rich.console import RenderableType

from voucher_sessions import shortened

# The fields of the models that have a session key.
_KEY_FIELDS: Final = frozenset(("key", "session_key"))
_CREDENTIALS: Final = re.compile(r"://\S*@")
Printable: TypeAlias = BaseModel | Sequence[BaseModel] | bool | dict[str, object]


class Console(RichConsole):
    """A console that prints texts as they are, and raises an error when the program that reads the output has ended."""

    def __init__(self, *, stderr: bool = False) -> None:
        # Without markup: a voucher's code may contain anything, also [red] or :smile:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        """Rich would end the process here."""
        raise BrokenPipeError(errno.EPIPE, "the reader of the output has ended")


class Output:
    """Prints for one run of a command."""

    def __init__(self, *, as_json: bool = False, show_keys: bool = False) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that have no UTF-8
        self.as_json = as_json
        self.show_keys = show_keys
        self.console = Console()
        self.notes = Console(stderr=True)

    def key(self, session_key: str) -> str:
        """A session key as it may be shown: its beginning, or all of it with ``--show-keys``."""
        return shown(session_key if self.show_keys else shortened(session_key))

    def print_result(self, result: Printable, *lines: RenderableType) -> None:
        """Print a result as JSON, or these lines about it for people."""
        if self.as_json:
            self.print_json(result)
        else:
            self.print(*lines)

    def print(self, *lines: RenderableType) -> None:
        """Print a result for people."""
        for line in lines:
            self.console.print(line)

    def print_json(self, result: Printable, *, whole_keys: bool = False) -> None:
        """Print a result for programs."""
        typer.echo(json.dumps(self.jsonable(result, whole_keys=whole_keys), indent=2))

    def print_json_object(self, fields: dict[str, int | Iterable[BaseModel]]) -> None:
        """Print an object. Each model of its lists is printed as it comes, so that none is kept in memory."""
        separator = "{"
        for name, value in fields.items():
            typer.echo(f"{separator}\n{json.dumps(name)}: ", nl=False)
            for piece in [str(value)] if isinstance(value, int) else self._pieces(value):
                typer.echo(piece, nl=False)
            separator = ","
        typer.echo("\n}")

    def _pieces(self, results: Iterable[BaseModel]) -> Iterator[str]:
        separator = "["
        for each in results:
            yield f"{separator}\n{json.dumps(self.jsonable(each), indent=2)}"
            separator = ","
        yield "[]" if separator == "[" else "\n]"

    def print_json_line(self, result: Printable) -> None:
        """Print a result on a line of its own, at once."""
        typer.echo(json.dumps(self.jsonable(result)))

    def jsonable(self, result: Printable, *, whole_keys: bool = False) -> object:
        """A result as JSON has it, with its session keys shortened."""
        if isinstance(result, BaseModel):
            result = result.model_dump(mode="json")
        elif isinstance(result, Sequence):
            return [self.jsonable(each, whole_keys=whole_keys) for each in result]
        return result if self.show_keys or whole_keys else with_shortened_keys(result)

    def note(self, text: str, *, style: str = "") -> None:
        """Print a line to stderr, which is never wrapped."""
        self.notes.print(shown(text), style=style, soft_wrap=True)


def shown(text: str) -> str:
    """A text for a terminal. Control characters and invisible ones are escaped: they could change what is shown."""
    escaped = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return without_credentials("".join(escaped))


def without_credentials(text: str) -> str:
    """The text, without the user and the password of a URL, for example one that was given instead of a code."""
    return _CREDENTIALS.sub("://…@", text)


def with_shortened_keys(value: object) -> object:
    """The parsed JSON of a model, with only the beginning of each session key."""
    if isinstance(value, dict):
        return {
            name: shortened(each) if name in _KEY_FIELDS and isinstance(each, str) else with_shortened_keys(each)
            for name, each in value.items()
        }
    return [with_shortened_keys(each) for each in value] if isinstance(value, list) else value
