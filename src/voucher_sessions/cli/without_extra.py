"""The command line without typer and rich: it runs the demo, and says how to install the other commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import voucher_sessions
from voucher_sessions.demo import run
from voucher_sessions.demo.output import Display

INSTALL: Final = "python -m pip install 'voucher-sessions[cli]'"
COMMAND: Final = "voucher-sessions"


def program() -> str:
    """How the command line was called."""
    return COMMAND if Path(sys.argv[0]).name == COMMAND else "python -m voucher_sessions"


def main(words: Sequence[str]) -> int:
    """Run the demo; say of any other command what it needs."""
    if words[:1] == ["demo"]:
        return run_demo(words[1:])
    if words and words[0] not in ("help", "--help"):
        sys.stderr.write(f"Error: this command needs the extra cli: {INSTALL}\n")
        return 2
    description = (
        f"{voucher_sessions.__doc__}\nThe only command without the extra cli is demo. For the others: {INSTALL}"
    )
    parser = argparse.ArgumentParser(prog=program(), description=description)
    commands = parser.add_subparsers(metavar="COMMAND")
    commands.add_parser("demo", help=run.HELP)
    commands.add_parser("help", help="show this text")
    parser.print_help(sys.stdout if words else sys.stderr)
    return 0 if words else 2


def run_demo(words: Sequence[str], make_display: Callable[[], Display] = Display) -> int:
    """Run the demo with these options."""
    parser = argparse.ArgumentParser(prog=f"{program()} demo", description=run.HELP)
    run.add_options(parser)
    options, unknown = parser.parse_known_args(words)
    if unknown:  # argparse itself would print their values too: one may be a URL with a password
        names = (each.partition("=")[0] for each in unknown)
        parser.error(f"unknown option {', '.join(name for name in names if ':' not in name)}")
    return run.main(options, make_display)
