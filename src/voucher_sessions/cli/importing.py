"""Import vouchers from a file of any size in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from time import monotonic
from typing import IO, Final

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from voucher_sessions import InvalidRequest, VoucherSessions
from voucher_sessions.bulk import RowProblem, VoucherRow, put_vouchers
from voucher_sessions.cli.bad_lines import BadLines
from voucher_sessions.cli.options import IfExists
from voucher_sessions.cli.output import Output
from voucher_sessions.cli.rows import Record, problem_of, voucher_row

# How many rows are in memory at a time.
BATCH: Final = 2_000
NOTE_SECONDS: Final = 10.0  # between notes on the progress, where no bar can be drawn


class Problems:
    """The problems of an import. They are counted and, if it prints JSON, kept in a file, as there may be millions."""

    def __init__(self, file: IO[str], *, kept: bool) -> None:
        self._file = file
        self._kept = kept
        self.count = 0

    def add(self, problem: RowProblem) -> None:
        """Count it, and keep it if the import prints JSON."""
        self.count += 1
        if self._kept:
            self._file.write(problem.model_dump_json() + "\n")

    def kept(self) -> Iterator[RowProblem]:
        """Those that were kept."""
        self._file.seek(0)
        return map(RowProblem.model_validate_json, self._file)


class Import:
    """Puts the vouchers of a file, and counts the new, known, conflicting and bad rows."""

    def __init__(
        self,
        engine: VoucherSessions,
        if_exists: IfExists,
        bad_lines: BadLines,
        conflicting: Problems,
        bad: Problems,
    ) -> None:
        self._engine = engine
        self._if_exists: IfExists = if_exists
        self._bad_lines = bad_lines
        self.rows = self.new = self.known = 0
        self.conflicting = conflicting
        self.bad = bad

    def run(self, records: Iterable[Record], on_progress: Callable[[int], object]) -> None:
        """Import all rows. ``on_progress`` gets the number of rows that are done."""
        remaining = iter(records)
        while batch := list(islice(remaining, BATCH)):
            refused = self._put(batch)
            for record, problem, problems in sorted(refused, key=lambda each: each[0].line):
                self._bad_lines.add(record, problem)
                problems.add(RowProblem(position=record.position, problem=problem))
            self.rows += len(batch)
            on_progress(self.rows)

    def _put(self, batch: Sequence[Record]) -> list[tuple[Record, str, Problems]]:
        """Put the vouchers of the records. Returns those that are refused, and why."""
        refused: list[tuple[Record, str, Problems]] = []
        good: list[Record] = []

        def rows() -> Iterator[VoucherRow]:
            for record in batch:
                try:
                    row = voucher_row(record)
                except InvalidRequest as error:
                    refused.append((record, problem_of(error), self.bad))
                else:
                    good.append(record)
                    yield row

        report = put_vouchers(self._engine, rows(), if_exists=self._if_exists, on_bad_row="collect")
        self.new += report.new
        self.known += report.known
        for problems, found in ((self.bad, report.bad), (self.conflicting, report.conflicting)):
            refused += [(good[each.position], each.problem, problems) for each in found]
        return refused

    def print_result(self, output: Output, seconds: float) -> None:
        """Print how many rows were new, known, conflicting and bad."""
        if output.as_json:
            output.print_json_object(
                {"new": self.new, "known": self.known, "conflicting": self.conflicting.kept(), "bad": self.bad.kept()}
            )
            return
        counts = f"{self.new} new, {self.known} known, {self.conflicting.count} conflicting, {self.bad.count} bad"
        output.print(f"{self.rows} rows: {counts}; {seconds:.1f} s, {self.rows / seconds:.0f} rows per second")


@contextmanager
def shown_progress(
    output: Output, what: str, total: int | None = None, completed: Callable[[], int] = int
) -> Iterator[Callable[[int], None]]:
    """Show on stderr how many rows are done, and how many in a second: on a terminal a bar, else a line every 10 s.

    It yields a function of the number of rows. ``completed`` returns how much is done of the ``total``, such as bytes.
    """
    started = noted = monotonic()
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=output.notes, expand=True, transient=True)
    task = bar.add_task(what, total=total)

    def done(rows: int) -> None:
        nonlocal noted
        now = monotonic()
        text = f"{rows} {what}, {rows / max(now - started, 0.001):.0f} per second"
        bar.update(task, description=text, completed=completed() if total else rows)
        if not output.notes.is_interactive and now - noted >= NOTE_SECONDS:
            noted = now
            output.note(text)

    with bar if output.notes.is_interactive else nullcontext():
        yield done
