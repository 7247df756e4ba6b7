"""The command line: ``python -m voucher_sessions``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import voucher_sessions
from voucher_sessions.demo import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m voucher_sessions", description=voucher_sessions.__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run.add_options(commands.add_parser("demo", help=run.HELP, description=run.HELP))
    return run.main(parser.parse_args(arguments))
