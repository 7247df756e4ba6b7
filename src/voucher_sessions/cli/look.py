"""Commands that only read: the balances of a voucher, its sessions and its redemptions."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from voucher_sessions.bulk import scan_redemptions
from voucher_sessions.cli import views
from voucher_sessions.cli.options import Code
from voucher_sessions.cli.run import Run, command

PANEL: Final = "Look"
SESSIONS_SHOWN: Final = 20

app: Final = typer.Typer()


@command(app, PANEL)
def show(run: Run, code: Code) -> None:
    """Show a voucher's balances and its sessions.

    For each balance: used, locked and available. Of the live sessions: those that expire first. With --json only the
    balances; use the command sessions for the sessions.
    """
    state = run.engine.get_voucher(code)
    if run.output.as_json:
        run.output.print_json(state)
        return
    sessions = run.engine.list_sessions(code, limit=SESSIONS_SHOWN)
    run.output.print(views.voucher_view(state), "", views.sessions_view(state, sessions, run.output))


@command(app, PANEL)
def sessions(
    run: Run,
    code: Code,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="How many at most.")] = 100,
    all_sessions: Annotated[bool, typer.Option("--all", help="List all, however many there are.")] = False,
) -> None:
    """List the live sessions of a voucher, the first to expire at the top."""
    if all_sessions:
        listed = sorted(run.engine.iter_sessions(code), key=lambda each: each.expires_at)
    else:
        listed = run.engine.list_sessions(code, limit=limit)
    if run.output.as_json:
        run.output.print_json(listed)
    else:
        run.output.print(views.sessions_view(run.engine.get_voucher(code), listed, run.output))


@command(app, PANEL)
def session(
    run: Run, code: Code, key: Annotated[str, typer.Argument(metavar="KEY", help="The session's key.")]
) -> None:
    """Show what a session locks, and until when."""
    found = run.engine.get_session(code, key)
    run.output.print_result(found, views.session_view(found, run.output.key(found.key)))


@command(app, PANEL)
def redemptions(run: Run, code: Code) -> None:
    """List the redemptions of a voucher, the latest at the bottom.

    It reads all keys of the server. For one redemption use the command redemption.
    """
    found = sorted(scan_redemptions(run.engine, code), key=lambda each: (each.redeemed_at, each.id))
    if not found:
        run.engine.get_voucher(code)  # raises an error if there is no such voucher
    run.output.print_result(found, views.redemptions_view(found, run.output) if found else "no redemptions")


@command(app, PANEL)
def redemption(
    run: Run,
    code: Code,
    redemption_id: Annotated[str, typer.Argument(metavar="ID", help="The redemption id, such as the order's number.")],
) -> None:
    """Show a redemption, and what was rolled back of it."""
    found = run.engine.get_redemption(code, redemption_id)
    run.output.print_result(found, views.redemption_view(found, run.output))
