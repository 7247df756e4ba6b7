"""Commands for operators: the check of a server, and of the totals of a voucher."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final, Literal

import typer
from rich.text import Text

from voucher_sessions import Audit
from voucher_sessions.cli import failures, views
from voucher_sessions.cli.options import Code, Yes
from voucher_sessions.cli.output import shown
from voucher_sessions.cli.run import Run, command

PANEL: Final = "Operate"

app: Final = typer.Typer()


@command(app, PANEL)
def check(
    run: Run,
    fail_on: Annotated[
        Literal["error", "warning"], typer.Option(help="The least severity of a finding for exit status 3.")
    ] = "error",
) -> int:
    """Check whether the server is set up to keep the vouchers.

    It changes nothing. Exit status 3 if there is a finding of severity error.
    """
    findings = run.engine.check_server()
    counts = Counter(each.severity for each in findings)
    if run.output.as_json:
        run.output.print_json(findings)
    elif findings:
        summary = ", ".join(f"{count} {severity}" for severity, count in counts.items())
        run.output.print(views.findings_view(findings), "", f"findings: {summary}")
    else:
        run.output.print(Text("no findings", "green"))
    fails = counts["error"] or (fail_on == "warning" and counts["warning"])
    return failures.SERVER if fails else failures.DONE


@command(app, PANEL)
def audit(run: Run, code: Code) -> int:
    """Compare a voucher's totals with its sessions' locks.

    Exit status 1 if they differ: something else has changed the keys, or the server evicted some.
    """
    found = run.engine.audit(code)
    if run.output.as_json:
        run.output.print_json(found)
    else:
        _print_audit(run, found)
    return failures.REFUSED if found.differs else failures.DONE


@command(app, PANEL, changes=True)
def repair(run: Run, code: Code, yes: Yes = False) -> int:
    """Correct a voucher's totals. Shows the changes and asks first."""
    found = run.engine.audit(code)
    if found.differs and not yes:
        _print_audit(run, found)
        run.ask(f"Set the totals of voucher {shown(code)} to what was counted?")
    if found.differs:
        found = run.engine.repair(code)
    if run.output.as_json:
        run.output.print_json(found)
    elif not found.differs:
        run.output.print("Nothing to repair.")
    elif found.exact:
        run.output.print("Repaired.")
    else:
        run.output.note(
            "Error: the voucher changed again and again, so nothing was repaired: try again later", style="red"
        )
    return failures.REFUSED if found.differs and not found.exact else failures.DONE


def _print_audit(run: Run, found: Audit) -> None:
    """Print the totals. Before a question with ``--json``, to stderr."""
    console = run.output.notes if run.output.as_json else run.output.console
    console.print(views.audit_view(found))
    if not found.expiries_agree:
        console.print("The stored times of the first and the last expiry are wrong.")
    if not found.exact:
        console.print("The voucher changed while its locks were counted, so the figures are not of one moment.")
    console.print(
        "The totals differ." if found.differs else "The totals agree.", style="red" if found.differs else "green"
    )
