"""``manage.py voucher_sessions``: the command line of the library, with the server of the project's settings."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from voucher_sessions import cli
from voucher_sessions.contrib.django import conf


class Command(BaseCommand):
    """Runs the command line with the URL, the prefix and the partition function of the setting."""

    help = (
        "Runs a command of voucher-sessions, for example: manage.py voucher_sessions show SALE-50. "
        "manage.py voucher_sessions -- --help lists all commands."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Take everything as it is, also what begins with ``--``."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help="a command and its options")

    def handle(self, *, arguments: list[str], **_: Any) -> None:
        """Run the command, and end with its exit status unless that is 0."""
        if arguments[:1] == ["--"]:
            arguments = arguments[1:]
        if status := cli.main([*_options(), *arguments]):
            sys.exit(status)


def _options() -> list[str]:
    try:
        given = conf.read()
        options = ["--url", conf.url(given)]
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    if "PREFIX" in given:
        options += ["--prefix", given["PREFIX"]]
    if function := given.get("PARTITION"):
        options += ["--partition", f"{function.__module__}:{function.__qualname__}"]
    return options
