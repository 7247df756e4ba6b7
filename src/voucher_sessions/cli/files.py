"""Commands that read and write files: import, export and reconcile."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated, Final

import typer

from voucher_sessions import InvalidRequest, VoucherState
from voucher_sessions.bulk import Difference, RedemptionRow, reconcile, scan_vouchers
from voucher_sessions.cli import failures, rows, views
from voucher_sessions.cli.bad_lines import BadLines, path_for, write_csv
from voucher_sessions.cli.importing import Import, Problems, shown_progress
from voucher_sessions.cli.options import FileFormat, Format, IfExists
from voucher_sessions.cli.run import Run, command

PANEL: Final = "Files"
_NOTED_EACH: Final = 1_000

app: Final = typer.Typer()


@command(app, PANEL, name="import", creates=True)
def import_vouchers(
    run: Run,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .csv or .jsonl file, or - for stdin.")],
    if_exists: Annotated[
        IfExists,
        typer.Option(
            metavar="ACTION",
            help="If a voucher exists: keep it as it is, update it, or raise, which makes the line bad.",
        ),
    ] = "keep",
    format: Format = None,
    bad_lines: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to write the lines that are not imported; v.bad.csv for v.csv if left out."
        ),
    ] = None,
) -> int:
    """Import the vouchers of a file of any size. Safe to repeat.

    Columns: code, quantity, credits, points, used_quantity, used_credits, used_points; all but code may be left out.

    An empty quantity is without limit, other empty cells are 0. Exit status 1 if any line was not imported.
    """
    path = path_for(file, bad_lines)
    started = time.monotonic()
    with (
        rows.opened(file, format, rows.VOUCHER_FIELDS) as source,
        BadLines(run.output, source, path) as bad,
        TemporaryFile("w+", encoding="utf-8") as conflicting_rows,
        TemporaryFile("w+", encoding="utf-8") as bad_rows,
    ):
        problems = (Problems(file, kept=run.output.as_json) for file in (conflicting_rows, bad_rows))
        import_ = Import(run.engine, if_exists, bad, *problems)
        try:
            with shown_progress(run.output, "rows", _size(file), source.position) as done:
                import_.run(source, done)
        except BaseException:
            again = "run it again" if if_exists == "keep" else "run it again with --if-exists keep"
            run.output.note(f"The import ended after {import_.rows} rows: {again}", style="red")
            raise
        import_.print_result(run.output, time.monotonic() - started)
    return failures.REFUSED if bad.count else failures.DONE


@command(app, PANEL)
def export(
    run: Run,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .csv or .jsonl file, or - for stdout.")],
    format: Format = None,
) -> None:
    """Write all vouchers to a file, as import reads it.

    With their limits and what is used; locks and redemptions are left out.
    """
    kind = format or rows.format_of(file)
    vouchers = scan_vouchers(run.engine)
    count = 0
    with shown_progress(run.output, "vouchers") as done, _written(file) as written:
        if kind == "csv":
            write_csv(written, rows.VOUCHER_FIELDS)
        for count, state in enumerate(vouchers, start=1):
            _write_voucher(written, kind, state)
            if count % _NOTED_EACH == 0:
                done(count)
    if file != rows.STDIN and run.output.as_json:
        run.output.print_json({"vouchers": count})
    elif file != rows.STDIN:
        run.output.print(f"{count} vouchers")


@command(app, PANEL, name="reconcile")
def reconcile_file(
    run: Run,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .csv or .jsonl file, or - for stdin.")],
    format: Format = None,
) -> int:
    """Compare the shop's redemptions with those of the server.

    Columns: code, id, credits, points, rolled_back, credits_rolled_back, points_rolled_back; all but code and id may be
    left out. It changes nothing. Exit status 1 if there are differences.
    """
    count = 0

    def differences(source: rows.Source) -> Iterator[Difference]:
        nonlocal count
        for difference in reconcile(run.engine, _redemption_rows(source)):
            count += 1
            yield difference

    with rows.opened(file, format, rows.REDEMPTION_FIELDS) as source:
        if run.output.as_json:
            run.output.print_json(list(differences(source)))
        else:
            for each in differences(source):
                run.output.print(views.difference_text(each))
            run.output.print(f"differences: {count}")
    return failures.REFUSED if count else failures.DONE


def _size(file: str) -> int | None:
    """The bytes of a file, if it is one."""
    return Path(file).stat().st_size if file != rows.STDIN and Path(file).is_file() else None


def _redemption_rows(source: rows.Source) -> Iterator[RedemptionRow]:
    """The rows. A wrong one ends the comparison: without it, its receipt would be reported as one that has no row."""
    for record in source:
        try:
            yield rows.redemption_row(record)
        except InvalidRequest as error:
            raise InvalidRequest(f"line {record.line}", rows.problem_of(error)) from None


def _write_voucher(file: IO[str], kind: FileFormat, state: VoucherState) -> None:
    limits = (state.quantity.limit, state.credits.limit, state.points.limit)
    used = (state.quantity.used, state.credits.used, state.points.used)
    cells = (state.code, *limits, *used)
    if kind == "csv":
        write_csv(file, ["" if cell is None else cell for cell in cells])
    else:
        file.write(json.dumps(dict(zip(rows.VOUCHER_FIELDS, cells, strict=True)), ensure_ascii=False) + "\n")


@contextmanager
def _written(name: str) -> Iterator[IO[str]]:
    """A file to write, which replaces an older one when it is complete; or stdout."""
    if name == rows.STDIN:
        file = TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="", write_through=True)
        try:
            yield file
        finally:
            file.detach()
        return
    part = Path(f"{name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(part, name)
    finally:
        part.unlink(missing_ok=True)
