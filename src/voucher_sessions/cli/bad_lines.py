"""The lines of a file that were not imported: printed on stderr, and written to a file that can be corrected."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from voucher_sessions.cli.failures import WrongUsage
from voucher_sessions.cli.output import Output
from voucher_sessions.cli.rows import BAD_LINE_FIELDS, STDIN, Record, Source

# How many are printed on stderr, if all are in a file.
PRINTED: Final = 10


class BadLines:
    """Prints and writes bad lines one by one, so that memory does not grow with their number.

    The file has the same format as the input, and its first columns are the line's number and the problem. It is
    created for the first bad line; what it had before is replaced.
    """

    def __init__(self, output: Output, source: Source, path: Path | None) -> None:
        self._output = output
        self._source = source
        self._path = path
        self._file: IO[str] | None = None
        self.count = 0

    def add(self, record: Record, problem: str) -> None:
        """Print and write a line."""
        self.count += 1
        if self._path is None or self.count <= PRINTED:
            self._output.note(f"line {record.line}: {problem}", style="red")
        if self._path is not None:
            self._write(self._path, record, problem)

    def _write(self, path: Path, record: Record, problem: str) -> None:
        if self._file is None:
            self._file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            if self._source.format == "csv":
                write_csv(self._file, [*BAD_LINE_FIELDS, *_without_bad_line_fields(self._source, self._source.header)])
        if self._source.format == "csv":
            write_csv(self._file, [str(record.line), problem, *_without_bad_line_fields(self._source, record.raw)])
            return
        fields: object = None
        with suppress(ValueError, RecursionError):
            fields = json.loads(record.raw[0])
        if not isinstance(fields, dict):
            fields = {"text": record.raw[0].strip()}
        known = {name: each for name, each in fields.items() if name not in BAD_LINE_FIELDS}
        self._file.write(json.dumps({"line": record.line, "problem": problem, **known}) + "\n")

    def print_path(self) -> None:
        """Print the path of the file."""
        if self.count > PRINTED and self._path is not None:
            self._output.note(f"and {self.count - PRINTED} more", style="red")
        if self._file is not None:
            self._output.note(f"The lines that were not imported are in {self._path}", style="red")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        self.print_path()


def path_for(name: str, given: Path | None) -> Path | None:
    """The file for the bad lines of a file: as given, or next to it. None for stdin, if none is given."""
    source = Path(name)
    if name == STDIN or not source.name:  # such as /, which is not a file
        return given
    path = given or source.with_suffix(f".bad{source.suffix}")
    if path.exists() and source.exists() and os.path.samefile(path, source):
        raise WrongUsage("--bad-lines must name another file than the one that is imported")
    return path


def write_csv(file: IO[str], cells: Sequence[object]) -> None:
    """Write a row. A cell with a carriage return must be quoted, which csv does not always do by itself."""
    is_quoted = any("\r" in str(cell) for cell in cells)
    writer = csv.writer(file, "unix") if is_quoted else csv.writer(file, lineterminator="\n")
    writer.writerow(cells)


def _without_bad_line_fields(source: Source, cells: Sequence[str]) -> list[str]:
    """The cells without those that an earlier import has added. A row of another length is left as it is."""
    if len(cells) != len(source.header):
        return list(cells)
    return [cell for name, cell in zip(source.header, cells, strict=True) if name not in BAD_LINE_FIELDS]
