"""The demo, drawn with live bars on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from voucher_sessions import VoucherState
from voucher_sessions.cli import views
from voucher_sessions.cli.operate import PANEL
from voucher_sessions.cli.output import Console
from voucher_sessions.cli.run import Settings
from voucher_sessions.cli.without_extra import run_demo
from voucher_sessions.demo.checks import Check
from voucher_sessions.demo.output import Display, Row
from voucher_sessions.demo.run import HELP

app: Final = typer.Typer()


@app.command(
    help=HELP[0].upper() + HELP[1:] + ".",
    rich_help_panel=PANEL,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def demo(ctx: typer.Context) -> None:
    """Run the demo. It reads its own options, since it also runs without typer; it ignores VOUCHER_SESSIONS_URL."""
    settings: Settings = ctx.obj
    url = [] if settings.url is None else ["--url", settings.url]
    make_display = LiveDisplay if Console().is_interactive else Display
    raise typer.Exit(run_demo([*url, *ctx.args], make_display))


class LiveDisplay(Display):
    """What the demo shows on a terminal: a bar for each voucher while the carts are served."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)

    def begin(self, text: str) -> None:
        """Print what runs, and begin to draw."""
        self._console.print(text)
        self._live.start()

    def show(self, finished: int, total: int, states: Sequence[VoucherState]) -> None:
        """Draw the bars again."""
        header = self.with_seconds(f"{finished} of {total} carts finished")
        self._live.update(
            Group(header, views.vouchers_view({state.code: (state, []) for state in states})), refresh=True
        )

    def show_event(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(Text(self.with_seconds(text), "bold red" if "SIGKILL" in text else "bold"))

    def end(self) -> None:
        """Let the last bars stay."""
        self._live.stop()

    def close(self) -> None:
        """Stop drawing, also after an error or Ctrl-C."""
        self._live.stop()

    def show_table(self, rows: Sequence[Row]) -> None:
        """Draw the table so that it fits into 60 columns."""
        header, units, *figures = rows
        table = Table(box=None, pad_edge=False)
        for name, unit in zip((header.title, *header.cells), (units.title, *units.cells), strict=True):
            table.add_column(f"{name}\n{unit}" if name else "", justify="right" if name else "left", overflow="fold")
        for row in figures:
            table.add_row(row.title, *map(str, row.cells))
        self._console.print(table, "")

    def show_check(self, check: Check) -> None:
        """Show the result of a check in green or red."""
        verdict, style = ("FAILED", "bold red") if check.problems else ("ok", "green")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(min_width=len("FAILED"))
        table.add_row(Text(verdict, style), check.text)
        for problem in check.problems[:5]:
            table.add_row("", f"- {problem}")
        self._console.print(table)
