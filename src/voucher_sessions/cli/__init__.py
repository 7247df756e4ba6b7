"""The command line: ``voucher-sessions``, and ``python -m voucher_sessions``.

app             all commands, and what they have in common: options, errors, exit statuses
run             one run of a command: its settings, its engine, its output
options         the options and arguments that several commands have
failures        from an error to an exit status and to what is printed
output          text and JSON, and the characters and session keys that are not shown as they are
views           vouchers, sessions, redemptions and findings for people
look            commands that only read
watching        the live view
change          commands that change one voucher
operate         the check of a server, audit and repair
serving         the command that offers the vouchers over HTTP
files           import, export and reconcile; with rows, bad_lines and importing
demo            the demo with live bars
without_extra   what works without typer and rich: the demo
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed before this process began
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    try:
        import_module("rich")
        import_module("typer")
    except ImportError:
        from voucher_sessions.cli import without_extra

        return without_extra.main(words)
    from voucher_sessions.cli import app

    return app.main(words)
