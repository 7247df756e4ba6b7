"""The rows of the bulk tools: they are checked, and a few hundred calls are sent together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, Literal, TypeVar

from voucher_sessions._core.call import Call
from voucher_sessions._core.rows import VoucherRow
from voucher_sessions.engine import VoucherSessions
from voucher_sessions.errors import InvalidRequest, VoucherSessionsError
from voucher_sessions.models import Checker, RedemptionRow, is_a
from voucher_sessions.results import Redemption, RowProblem

T = TypeVar("T")
R = TypeVar("R", bound=RedemptionRow | VoucherRow)
OnBadRow = Literal["raise", "collect"]
RedemptionLike = Redemption | RedemptionRow | Mapping[str, Any]

# How many calls are sent together. More would hardly be faster, and would delay the calls of other processes.
CHUNK: Final = 200


class Rows:
    """The rows that were given to one of the tools. Memory stays constant, however many there are."""

    def __init__(
        self,
        engine: VoucherSessions,
        rows: Iterable[Any],
        on_progress: Callable[[int], object] | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> None:
        check_engine(engine)
        if on_progress is not None and not callable(on_progress):
            raise InvalidRequest("on_progress", "must be a function of the number of rows that are done, or None")
        collects = Checker(OnBadRow)("on_bad_row", on_bad_row) == "collect"
        if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
            raise InvalidRequest("rows", "must be an iterable of rows")
        self._engine = engine
        self._rows = rows
        self._on_progress = on_progress
        self._collects = collects
        self.bad: list[RowProblem] = []

    def outcomes(self, check: Callable[[Any], R], call_of: Callable[[R], Call[Any]]) -> Iterator[tuple[int, R, Any]]:
        """Send a call for each row. Yield the row's position, the checked row, and the call's result or error."""
        done = 0
        for chunk in in_chunks(enumerate(self._rows)):
            good: list[tuple[int, R]] = []
            calls: list[Call[Any]] = []
            for at, row in chunk:
                if prepared := self._prepared(at, row, check, call_of):
                    good.append((at, prepared[0]))
                    calls.append(prepared[1])
            for (at, row), outcome in zip(good, self._engine._runner.run_all(calls), strict=True):
                yield at, row, outcome
            done += len(chunk)
            if self._on_progress is not None:
                self._on_progress(done)

    def _prepared(
        self, at: int, row: Any, check: Callable[[Any], R], call_of: Callable[[R], Call[Any]]
    ) -> tuple[R, Call[Any]] | None:
        """The checked row and its call; None if the row is bad, also because the engine's ``partition`` fails for it."""
        try:
            checked = check(row)
        except InvalidRequest as error:
            self.add_bad(at, error)
            return None
        try:
            return checked, call_of(checked)
        except Exception as error:
            if not self._engine._verbs.partition_fails_for(checked.code):
                raise  # not the function's error: a signal handler's, say
            self.add_bad(at, error)
            return None

    def add_bad(self, at: int, error: Exception) -> None:
        """Raise the error of a wrong row or, with ``on_bad_row="collect"``, keep it for the report."""
        if not self._collects:
            if isinstance(error, InvalidRequest):
                raise InvalidRequest(f"rows.{at}.{error.field}", error.problem)
            error.add_note(f"This error is about row {at}, counted from 0.")
            raise error
        is_ours = isinstance(error, VoucherSessionsError)
        problem = str(error) if is_ours else f"the engine's partition function raised {error!r}"
        self.bad.append(RowProblem(position=at, problem=problem))


def check_engine(engine: object) -> None:
    """Raise ``InvalidRequest`` if it is none, or one for asyncio."""
    if not is_a(engine, VoucherSessions):
        raise InvalidRequest("engine", "must be a VoucherSessions: the bulk tools need a sync engine")


def in_chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists of ``CHUNK``."""
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def result(outcome: Any) -> Any:
    """The result of a call; raises its error."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
