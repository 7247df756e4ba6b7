"""The files that ``import`` and ``reconcile`` read: CSV, or a JSON object in each line."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from voucher_sessions import InvalidRequest, Used, Voucher
from voucher_sessions.bulk import RedemptionRow, VoucherRow
from voucher_sessions.cli.failures import WrongUsage
from voucher_sessions.cli.options import FileFormat

STDIN: Final = "-"
ROW: Final = "row"  # the field of an error that is about the whole row
LIMITS: Final = ("quantity", "credits", "points")
USED: Final = tuple(f"used_{name}" for name in LIMITS)
VOUCHER_FIELDS: Final = ("code", *LIMITS, *USED)
REDEMPTION_FIELDS: Final = (*RedemptionRow.model_fields, "replayed")
# What a file of bad lines has in addition. They are ignored, so that the corrected file can be imported as it is.
BAD_LINE_FIELDS: Final = ("line", "problem")

_MAX_DIGITS: Final = 16  # what has more is above 2^53 - 1
_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
Fields: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the file.

    ``line`` is the number of its first line, from 1; ``raw`` is what the file has: the cells of a CSV row, or the line.
    ``problem`` says why it has no ``fields``.
    """

    position: int
    line: int
    raw: Sequence[str]
    fields: Fields
    problem: str | None = None


class Source(Protocol):
    """A file that is read record by record."""

    format: FileFormat
    header: Sequence[str]
    position: Callable[[], int]  # how many bytes have been read

    def __iter__(self) -> Iterator[Record]: ...


class _Lines:
    """The lines of a file: counted, and kept until the record that they belong to is complete."""

    def __init__(self, file: TextIOWrapper) -> None:
        self._file = file
        self.number = 0
        self.of_record: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            self.of_record.append(line)
            yield line

    def begin_record(self) -> int:
        """The number of the next record's first line."""
        self.of_record.clear()
        return self.number + 1


class CsvSource:
    """A CSV file, whose first row names the columns."""

    format: FileFormat = "csv"

    def __init__(self, file: TextIOWrapper, allowed: Sequence[str], position: Callable[[], int]) -> None:
        self.position = position
        self._lines = _Lines(file)
        self._reader = csv.reader(self._lines, strict=True)
        try:
            self.header: Sequence[str] = next(self._reader, [])
        except csv.Error:
            self.header = []
        _check_header(self.header, allowed)

    def __iter__(self) -> Iterator[Record]:
        position = 0
        while True:
            line = self._lines.begin_record()
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                raw = ["".join(self._lines.of_record)]
                yield Record(position, line, raw, {}, f"is not CSV: {error}")
            else:
                if cells is None:
                    return
                if not cells:  # an empty line
                    continue
                yield self._record(position, line, cells)
            position += 1

    def _record(self, position: int, line: int, cells: list[str]) -> Record:
        if len(cells) != len(self.header):
            problem = f"has {len(cells)} cells, and the header {len(self.header)}"
            return Record(position, line, cells, {}, problem)
        fields: Fields = {
            name: cell for name, cell in zip(self.header, cells, strict=True) if cell and name not in BAD_LINE_FIELDS
        }
        return Record(position, line, cells, fields)


def _check_header(header: Sequence[str], allowed: Sequence[str]) -> None:
    """A misspelt column must not be left out: without its quantity, a voucher has no limit."""
    if "code" not in header or len(set(header)) != len(header) or not {*header} <= {*allowed, *BAD_LINE_FIELDS}:
        names = ", ".join(allowed)
        raise WrongUsage(
            "the first line of the file must name the columns: code is required, no column may be named twice, and the "
            f"columns that may be named are: {names}"
        )


class JsonLinesSource:
    """A file with a JSON object in each line."""

    format: FileFormat = "jsonl"
    header: Sequence[str] = ()

    def __init__(self, file: TextIOWrapper, allowed: Sequence[str], position: Callable[[], int]) -> None:
        self.position = position
        self._file = file
        self._allowed = {*allowed, *BAD_LINE_FIELDS}

    def __iter__(self) -> Iterator[Record]:
        position = 0
        for number, line in enumerate(self._file, start=1):
            if line.strip():
                yield self._record(position, number, line)
                position += 1

    def _record(self, position: int, number: int, line: str) -> Record:
        raw = [line]
        try:
            fields: object = json.loads(line)
        except (ValueError, RecursionError):
            return Record(position, number, raw, {}, "is not JSON")
        if not isinstance(fields, dict):
            return Record(position, number, raw, {}, "is not a JSON object")
        if not fields.keys() <= self._allowed:
            return Record(position, number, raw, {}, f"has other fields than {', '.join(sorted(self._allowed))}")
        known = {name: each for name, each in fields.items() if each is not None and name not in BAD_LINE_FIELDS}
        return Record(position, number, raw, known)


@contextmanager
def opened(name: str, format: FileFormat | None, allowed: Sequence[str]) -> Iterator[Source]:
    """Open a file, or stdin for ``-``. Bytes that are not UTF-8 make only their own rows bad."""
    kind = format or format_of(name)
    with nullcontext(sys.stdin.buffer) if name == STDIN else Path(name).open("rb") as buffer:
        # Spreadsheets begin a file with a byte order mark, which utf-8-sig skips.
        newline = "" if kind == "csv" else "\n"
        file = TextIOWrapper(buffer, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
        try:
            source_kind = CsvSource if kind == "csv" else JsonLinesSource
            yield source_kind(file, allowed, buffer.tell)
        finally:
            file.detach()  # stdin must not be closed with it


def format_of(name: str) -> FileFormat:
    """The format, by the ending of the file's name; csv for stdin and stdout."""
    suffix = Path(name).suffix.lower()
    if suffix == ".csv" or name == STDIN:
        return "csv"
    if suffix == ".jsonl":
        return "jsonl"
    raise WrongUsage("the name of the file ends neither with .csv nor with .jsonl: add --format")


def voucher_row(record: Record) -> VoucherRow:
    """The voucher of a record, with what is used of it if the record says so. Raises ``InvalidRequest``."""
    fields = _checked_fields(record)
    numbers = {name: _number(name, fields[name]) for name in (*LIMITS, *USED) if name in fields}
    voucher = Voucher(code=fields["code"], **{name: numbers[name] for name in LIMITS if name in numbers})
    used = {name: numbers[f"used_{name}"] for name in LIMITS if f"used_{name}" in numbers}
    try:
        return (voucher, Used(**used)) if used else voucher
    except InvalidRequest as error:
        raise InvalidRequest(f"used_{error.field}", error.problem) from None


def redemption_row(record: Record) -> RedemptionRow:
    """The redemption of a record. Raises ``InvalidRequest``."""
    known = {name: each for name, each in _checked_fields(record).items() if name != "replayed"}
    for name in ("quantity", "credits", "points", "credits_rolled_back", "points_rolled_back"):
        if name in known:
            known[name] = _number(name, known[name])
    if isinstance(known.get("rolled_back"), str):
        known["rolled_back"] = _BOOLEANS.get(known["rolled_back"].lower(), known["rolled_back"])
    return RedemptionRow(**known)


def _checked_fields(record: Record) -> Fields:
    if record.problem is not None:
        raise InvalidRequest(ROW, record.problem)
    if not "".join(record.raw).isascii():
        _check_encoding(record.raw)
    if "code" not in record.fields:
        raise InvalidRequest("code", "is missing")
    return record.fields


def _check_encoding(raw: Sequence[str]) -> None:
    try:
        "".join(raw).encode()
    except UnicodeEncodeError:  # bytes that the file could not be decoded with
        raise InvalidRequest(ROW, "is not UTF-8") from None


def problem_of(error: InvalidRequest) -> str:
    """What is wrong with a record."""
    return error.problem if error.field == ROW else str(error)


def _number(name: str, value: Any) -> Any:
    """A number that CSV has as text. The models check a value that is not text."""
    if not isinstance(value, str):
        return value
    digits = value.strip()
    if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS:
        return int(digits)
    raise InvalidRequest(name, "must be a whole number from 0 to 2^53 - 1, or empty")
