"""Repeats a failed call as the ``Retry`` of the application's client says: how often, after which errors and pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from voucher_sessions._core import client_errors
from voucher_sessions.errors import CLIENT_ERRORS, VoucherSessionsError

T = TypeVar("T")


class _Final(BaseException):
    """Carries an error that must not be retried: ``Retry`` catches errors of given classes, and never this one."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def call_again(retry: Any, attempt: Callable[[], T], failed: Exception) -> T:
    """The result of ``attempt``. Its first call has raised ``failed``; ``retry`` decides whether more calls follow."""
    failures = [failed]

    def again() -> T:
        with _finally_decided():
            if failures:
                raise failures.pop()
            return attempt()

    try:
        result: T = retry.call_with_retry(again, lambda error: None)
    except _Final as final:
        raise final.error from final.error.__cause__
    return result


async def call_again_async(retry: Any, attempt: Callable[[], Awaitable[T]], failed: Exception) -> T:
    """The same for a ``Retry`` of ``redis.asyncio``."""
    failures = [failed]

    async def again() -> T:
        with _finally_decided():
            if failures:
                raise failures.pop()
            return await attempt()

    try:
        result: T = await retry.call_with_retry(again, lambda error: asyncio.sleep(0))
    except _Final as final:
        raise final.error from final.error.__cause__
    return result


@contextmanager
def _finally_decided() -> Iterator[None]:
    """Let ``Retry`` decide only about errors after which a call may be sent again."""
    try:
        yield
    except CLIENT_ERRORS as error:
        if isinstance(error, VoucherSessionsError) or not client_errors.may_be_repeated(error):
            raise _Final(error) from error
        raise
