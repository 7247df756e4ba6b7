"""The command line: ``python -m voucher_sessions``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import voucher_sessions
from voucher_sessions.demo import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m voucher_sessions", description=voucher_sessions.__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    run.add_options(commands.add_parser("demo", help=run.HELP, description=run.HELP))
    commands.add_parser("help", help="show this text")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # argparse itself would print their values too: one may be a URL with a password
        parser.error(f"unknown option {', '.join(each.partition('=')[0] for each in unknown)}")
    if options.command == "help":
        parser.print_help()
        return 0
    return run.main(options)
