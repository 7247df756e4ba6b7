"""The live view of vouchers: ``watch``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from time import sleep
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from voucher_sessions import (
    ActiveSession,
    Balance,
    VoucherNotFound,
    VoucherSessions,
    VoucherSessionsError,
    VoucherState,
)
from voucher_sessions.bulk import scan_vouchers
from voucher_sessions.cli import failures, views
from voucher_sessions.cli.look import PANEL, SESSIONS_SHOWN
from voucher_sessions.cli.output import Output, shown
from voucher_sessions.cli.run import Run, command

REFRESH_SECONDS: Final = 1.0
MAX_VOUCHERS: Final = 500
# The rows of the screen that the header, the names of the columns and the last line need; and those of one voucher.
_ROWS_AROUND: Final = 5
_ROWS_OF_VOUCHER: Final = 9

app: Final = typer.Typer()


@command(app, PANEL)
def watch(
    run: Run,
    codes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CODE]...", help=f"The vouchers; if left out, those that exist, up to {MAX_VOUCHERS}."),
    ] = None,
) -> None:
    """Show vouchers live, refreshed each second, until Ctrl-C.

    One voucher is shown with its sessions, several with a bar each. If the output is not a terminal, it prints a line
    for each voucher every second. Ctrl-C ends it with exit status 0.
    """
    try:
        snapshots = _snapshots(run.engine, codes or _codes_that_exist(run))
        if run.output.console.is_interactive and not run.output.as_json:
            _show_live(run.output, snapshots)
        while True:
            snapshot = next(snapshots)
            if run.output.as_json and snapshot.problem is not None:
                run.output.note(f"Error: {snapshot.problem}", style="red")  # the old figures must not pass for new ones
            elif run.output.as_json:
                run.output.print_json_line(snapshot.states())
            else:
                typer.echo("\n".join(_log_lines(snapshot)))
    except KeyboardInterrupt:  # the way to end it
        return


@dataclass(slots=True)
class Snapshot:
    """The vouchers at a moment, each with its first sessions; None in the place of one that does not exist."""

    at: datetime
    vouchers: dict[str, tuple[VoucherState, list[ActiveSession]] | None] = field(default_factory=dict)
    problem: str | None = None

    def states(self) -> list[VoucherState]:
        """The vouchers that exist."""
        return [found[0] for found in self.vouchers.values() if found is not None]


def _codes_that_exist(run: Run) -> list[str]:
    found = list(islice(scan_vouchers(run.engine), MAX_VOUCHERS + 1))
    if not found:
        raise VoucherSessionsError("there are no vouchers under this prefix")
    if len(found) > MAX_VOUCHERS:
        run.output.note(f"Note: these are {MAX_VOUCHERS} of the vouchers; name the codes to watch others")
    return sorted(state.code for state in found[:MAX_VOUCHERS])


def _snapshots(engine: VoucherSessions, codes: Sequence[str]) -> Iterator[Snapshot]:
    """A snapshot each second. If the server does not answer later on, the last figures stay, with the problem."""
    snapshot = _taken(engine, codes)
    if not snapshot.states():
        raise VoucherNotFound(*codes)
    while True:
        yield snapshot
        sleep(REFRESH_SECONDS)
        try:
            snapshot = _taken(engine, codes)
        except failures.FAILURES as error:
            snapshot = Snapshot(snapshot.at, snapshot.vouchers, str(error))


def _taken(engine: VoucherSessions, codes: Sequence[str]) -> Snapshot:
    """Read the vouchers in one round trip."""
    snapshot = Snapshot(datetime.now(UTC))
    with engine.pipeline() as pipe:
        for code in codes:
            pipe.get_voucher(code).list_sessions(code, limit=SESSIONS_SHOWN if len(codes) == 1 else 1)
        results = pipe.execute(raise_on_error=False)
    for code, state, sessions in zip(codes, results[::2], results[1::2], strict=True):
        if isinstance(state, VoucherState) and isinstance(sessions, list):
            snapshot.vouchers[code] = state, sessions
        elif isinstance(state, VoucherNotFound) or isinstance(sessions, VoucherNotFound):
            snapshot.vouchers[code] = None
        else:
            raise next(each for each in (state, sessions) if isinstance(each, Exception))
    return snapshot


def _show_live(output: Output, snapshots: Iterator[Snapshot]) -> NoReturn:
    """Show the snapshots on a screen of their own, and leave the last one on the terminal."""
    last: RenderableType = ""
    try:
        with _sigterm_exits(), Live(console=output.console, screen=True, auto_refresh=False) as live:
            while True:
                last = view(next(snapshots), output)
                live.update(last, refresh=True)
    finally:
        output.print(last)


def view(snapshot: Snapshot, output: Output) -> RenderableType:
    """What ``watch`` shows, as far as the terminal has room: one voucher with its sessions, or several vouchers."""
    header = Text(f"{views.moment(snapshot.at)} UTC, refreshed each second until Ctrl-C", "dim")
    if snapshot.problem is not None:
        header = Text(f"as of {views.moment(snapshot.at)} UTC: {shown(snapshot.problem)}", "red")
    room = output.console.height - _ROWS_AROUND
    found = list(snapshot.vouchers.values())
    if len(found) == 1 and found[0] is not None:
        state, sessions = found[0]
        listed = sessions[: max(1, room - _ROWS_OF_VOUCHER)]
        return Group(header, "", views.voucher_view(state), "", views.sessions_view(state, listed, output))
    # The vouchers with the most live sessions come first, as there may be no room for the others.
    busiest = sorted(snapshot.vouchers, key=lambda code: -_sessions_of(snapshot, code))
    return Group(header, "", views.vouchers_view({code: snapshot.vouchers[code] for code in busiest}, max(1, room)))


def _sessions_of(snapshot: Snapshot, code: str) -> int:
    found = snapshot.vouchers[code]
    return 0 if found is None else found[0].quantity.locked


def _log_lines(snapshot: Snapshot) -> Iterator[str]:
    """A line for each voucher: what is used, locked and the limit of its balances."""
    if snapshot.problem is not None:
        yield f"{views.moment(datetime.now(UTC))}  {shown(snapshot.problem)}"
        return
    for code, found in snapshot.vouchers.items():
        figures = "there is no such voucher" if found is None else "  ".join(map(_figures, views.balances(found[0])))
        yield f"{views.moment(snapshot.at)}  {shown(code)}  {figures}"


def _figures(named: tuple[str, Balance]) -> str:
    name, balance = named
    limit = "" if balance.limit is None else f"/{balance.limit}"
    return f"{name} {balance.used}+{balance.locked}{limit}"


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, so that the terminal is as it was before."""

    def terminate(_: int, __: object) -> None:
        sys.exit(failures.TERMINATED)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
