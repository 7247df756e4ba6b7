"""All commands of ``voucher-sessions``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

import voucher_sessions
from voucher_sessions.cli import change, demo, failures, files, look, operate, options, serving, watching
from voucher_sessions.cli.output import Output, shown
from voucher_sessions.cli.run import Settings
from voucher_sessions.cli.without_extra import program

_LONGEST_SHOWN: Final = 8
_UNKNOWN_OPTION: Final = "No such option: "


class Commands(TyperGroup):
    """The commands. Unlike typer's own group, it never shows what was given: it may be a password or a session key."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command that the arguments name. In standalone mode, end with its exit status; else return it."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            status = super().main(words, prog_name, complete_var, False, windows_expand_args, **extra) or failures.DONE
        except typer.TyperException as error:
            _print_usage_error(error, words)
            status = error.exit_code
        except typer.Abort:
            status = failures.INTERRUPTED
        return sys.exit(status) if standalone_mode else status


app: Final = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main(words: Sequence[str]) -> int:
    """Run the command that the words name, and return the exit status."""
    status: int = get_command(app).main(words, program(), standalone_mode=False)
    return status


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    url: options.Url = None,
    prefix: options.Prefix = None,
    partition: options.Partition = None,
    as_json: options.AsJson = False,
    show_keys: options.ShowKeys = False,
) -> None:
    """See and change the vouchers, sessions and redemptions of a server.

    Exit status: 0 done, 1 refused or not found, 2 wrong usage, 3 a problem with the server.
    """
    if version:
        typer.echo(voucher_sessions.__version__)
        raise typer.Exit
    ctx.obj = Settings(url=url, prefix=prefix, partition=partition, as_json=as_json, show_keys=show_keys)
    if ctx.invoked_subcommand is None:
        ctx.get_help()  # typer prints it
        raise typer.Exit(failures.USAGE)


for _part in (look, watching, change, files, operate, serving, demo):
    app.add_typer(_part.app)


@app.command("help", hidden=True)
def _help(ctx: typer.Context) -> None:
    """Show the commands."""
    ctx.find_root().get_help()  # typer prints it


def _print_usage_error(error: typer.TyperException, words: Sequence[str]) -> None:
    is_own = isinstance(error, failures.WrongUsage)
    message = (str(error) if is_own else _without_words(error.format_message(), words)).rstrip(".")
    stop = "" if message.endswith("?") else "."
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else f"{program()} --help"
    Output().note(f"Error: {message}{stop} See: {hint}", style="red")


def _without_words(message: str, words: Sequence[str]) -> str:
    """The message without the words of the command line that may be secret."""
    parts = {part for word in words for part in (word, *word.split("=", 1)) if _may_be_secret(part)}
    forms = {form for part in parts for form in (part, repr(part)[1:-1], shown(part))}
    for form in sorted(forms, key=len, reverse=True):
        message = message.replace(form, "…")
    about, colon, option = message.partition(_UNKNOWN_OPTION)  # of an option that exists, the name is shown
    name, blank, rest = option.partition(" ")
    return f"{about}{colon}{name[:_LONGEST_SHOWN]}{'…' if len(name) > _LONGEST_SHOWN else ''}{blank}{rest}"


def _may_be_secret(word: str) -> bool:
    """Whether a word may be a session key or a part of a URL. Short words and options are shown."""
    is_option = word.startswith("-") and " " not in word
    return ":" in word or "@" in word or (len(word) > _LONGEST_SHOWN and not is_option)
