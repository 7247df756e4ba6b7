"""``python -m voucher_sessions demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import voucher_sessions
from voucher_sessions import demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m voucher_sessions", description=voucher_sessions.__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo.add_options(commands.add_parser("demo", help=demo.HELP, description=demo.HELP))
    return demo.main(parser.parse_args(arguments))


if __name__ == "__main__":  # the demo's workers import this file too, under another name
    sys.exit(main())
