"""The command that offers the vouchers over HTTP: ``serve``."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from voucher_sessions.cli import failures
from voucher_sessions.cli.operate import PANEL
from voucher_sessions.cli.options import TimeToLive, time_to_live
from voucher_sessions.cli.run import Run, command

app: Final = typer.Typer()


@command(app, PANEL, creates=True)
def serve(
    run: Run,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="The port to listen on; 0: any.")] = 8000,
    api_keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A JSON object with the token of each app id, which requests must have."),
    ] = None,
    default_ttl: Annotated[
        TimeToLive | None,
        typer.Option(metavar="TIME", parser=time_to_live, help="How long a session lives that names no ttl."),
    ] = None,
    max_ttl: Annotated[
        TimeToLive | None,
        typer.Option(metavar="TIME", parser=time_to_live, help="The longest time to live of a session."),
    ] = None,
) -> None:
    """Offer the vouchers over HTTP, until Ctrl-C.

    Without --api-keys, only this machine can reach it.
    """
    try:
        from voucher_sessions.contrib.fastapi import serve as serve_vouchers
    except ImportError:
        raise failures.WrongUsage(
            "serve needs the extra fastapi: python -m pip install 'voucher-sessions[fastapi]'"
        ) from None
    with suppress(KeyboardInterrupt):  # the way to end it
        serve_vouchers(
            run.url,
            api_keys=None if api_keys is None else _tokens(api_keys),
            host=host,
            port=port,
            prefix=run.prefix,
            partition=run.partition,
            default_ttl=None if default_ttl is None else default_ttl.timedelta,
            max_ttl=None if max_ttl is None else max_ttl.timedelta,
        )


def _tokens(file: Path) -> dict[str, str]:
    """The token of each app id."""
    problem = "--api-keys: must be a JSON object with the token of each app id"
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError:
        raise failures.WrongUsage(problem) from None
    if not isinstance(found, dict):
        raise failures.WrongUsage(problem)
    return found
