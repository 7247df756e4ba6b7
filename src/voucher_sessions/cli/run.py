"""One run of a command: its settings, its engine and its output; and what turns a function into a command."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from inspect import Parameter, Signature
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import typer

from voucher_sessions import InvalidRequest, VoucherSessions
from voucher_sessions.cli import failures, options
from voucher_sessions.cli.output import Output

URL_VARIABLE: Final = "VOUCHER_SESSIONS_URL"
_INTERRUPTED: Final = (
    "Interrupted: the change may or may not have been made. Check it with show or redemptions, or repeat the command: "
    "with the same --id the change is made once"
)
# These servers end with the command.
_TEMPORARY: Final = ("memory://", "embedded://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options that every command has."""

    url: options.Url = None
    prefix: options.Prefix = None
    partition: options.Partition = None
    as_json: options.AsJson = False
    show_keys: options.ShowKeys = False

    def over(self, others: Settings) -> Settings:
        """These settings, and where they are left out, the others."""
        return Settings(
            url=others.url if self.url is None else self.url,
            prefix=others.prefix if self.prefix is None else self.prefix,
            partition=others.partition if self.partition is None else self.partition,
            as_json=self.as_json or others.as_json,
            show_keys=self.show_keys or others.show_keys,
        )


class Run:
    """One run of a command.

    ``creates``: the command may create the folder of ``embedded:///FOLDER``. ``generates_session_key``: the command lets
    the engine generate a session key, which it may show.
    """

    def __init__(self, settings: Settings, *, creates: bool) -> None:
        self._settings = settings
        self._creates = creates
        self._opened = ExitStack()
        self.output = Output(as_json=settings.as_json, show_keys=settings.show_keys)
        self.generates_session_key = False

    @property
    def url(self) -> str:
        """The URL of the server."""
        url = self._settings.url or os.environ.get(URL_VARIABLE)
        if not url:
            raise failures.WrongUsage(f"name the server: --url URL, or the environment variable {URL_VARIABLE}")
        self._check_folder(url)
        return url

    @property
    def prefix(self) -> str:
        """The beginning of all keys."""
        return "vs" if self._settings.prefix is None else self._settings.prefix

    @property
    def partition(self) -> Callable[[str], str] | None:
        """The ``partition`` function of the engines of the prefix."""
        return None if self._settings.partition is None else _function_named(self._settings.partition)

    @cached_property
    def engine(self) -> VoucherSessions:
        """The engine, which is opened when it is first used."""
        url = self.url
        try:
            function = self.partition
            partition = None if function is None else _failing_in_one_line(function)
            engine = VoucherSessions.from_url(url, prefix=self.prefix, partition=partition)
        except ImportError as error:  # of an extra, which its text names
            raise failures.WrongUsage(str(error)) from None
        if url in _TEMPORARY:
            self.output.note(
                f"Note: {url} is empty when a command begins, and its data is deleted when the command ends.",
                style="dim",
            )
        return self._opened.enter_context(engine)

    def _check_folder(self, url: str) -> None:
        """A misspelt folder would be created, and would then have no vouchers."""
        folder = url.removeprefix("embedded://")
        if url != folder and folder and not self._creates and not Path(folder).is_dir():
            raise failures.WrongUsage("--url: there is no such folder; put, import and serve create it")

    def ask(self, question: str) -> None:
        """Ask whether to go on. If nobody can be asked, or the answer is no, the command ends."""
        if not sys.stdin.isatty():
            raise failures.WrongUsage(
                "the input is not a terminal, so the command cannot ask: add --yes to do it without a question"
            )
        if not typer.confirm(question, err=True):
            self.output.note("Nothing was changed.")
            raise typer.Exit(failures.REFUSED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()


def _function_named(name: str) -> Callable[[str], str]:
    """The function ``MODULE:NAME``; the module may also be in the current directory."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function: Callable[[str], str] = getattr(import_module(module), attribute)
    except Exception as error:  # also of the module, which may do anything
        raise failures.WrongUsage(f"--partition: MODULE:NAME raises {type(error).__name__}") from None
    return function


def _failing_in_one_line(partition: Callable[[str], str]) -> Callable[[str], str]:
    """The function, with errors that a command prints instead of a traceback."""

    def function(code: str) -> str:
        try:
            return partition(code)
        except Exception as error:  # the function may do anything
            raise InvalidRequest("partition(code)", f"raises {type(error).__name__}") from None

    return function


Command = Callable[..., int | None]
_COMMON: Final = inspect.signature(Settings, eval_str=True).parameters


def command(
    app: typer.Typer, panel: str, *, name: str | None = None, changes: bool = False, creates: bool = False
) -> Callable[[Command], Command]:
    """Make a command of a function.

    Its first parameter is the ``Run``, the others are the command's own options and arguments. It returns the exit
    status, None for 0. The command also gets the options of ``Settings``.

    ``changes``: the command changes something with one call, so that Ctrl-C leaves its outcome unknown. ``creates``: it
    may create the folder of ``embedded:///FOLDER``.
    """

    def register(function: Command) -> Command:
        def run_it(ctx: typer.Context, **values: Any) -> None:
            settings = Settings(**{each: values.pop(each) for each in _COMMON}).over(ctx.obj)
            run = Run(settings, creates=creates)
            try:
                raise typer.Exit(_run(function, run, values))
            except KeyboardInterrupt:
                if changes:
                    run.output.note(_INTERRUPTED, style="red")
                raise

        own_run, *own = inspect.signature(function, eval_str=True).parameters.values()
        context = own_run.replace(name="ctx", annotation=typer.Context)
        parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in (context, *own, *_COMMON.values())]
        vars(run_it)["__signature__"] = Signature(parameters)
        run_it.__annotations__ = {each.name: each.annotation for each in parameters}
        run_it.__name__, run_it.__doc__ = function.__name__, function.__doc__
        app.command(name, rich_help_panel=panel)(run_it)
        return function

    return register


def _run(function: Command, run: Run, values: dict[str, Any]) -> int:
    """Run the function, and print its error. What it prints is flushed, so that a reader that has ended is noticed."""
    try:
        with run:
            status = function(run, **values) or failures.DONE
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return failures.OUTPUT_CLOSED
    except failures.FAILURES as error:
        failures.print_failure(run.output, error, shows_session_key=run.generates_session_key)
        return failures.exit_status(error)
    return status


def _discard_output() -> None:
    """The interpreter must not fail when it flushes the output at its end."""
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())
