"""Clients that return or raise given answers, and calls that both engines make with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import methodcaller
from typing import Any

from voucher_sessions import AsyncVoucherSessions, Voucher, VoucherSessions

CHANGING = [
    methodcaller("put_voucher", Voucher(code="A")),
    methodcaller("delete_voucher", "A"),
    methodcaller("validate", "A", session={"type": "LOCK"}),
    methodcaller("redeem", "A", session="cart"),
    methodcaller("release", "A", "cart"),
    methodcaller("rollback", "A", "order"),
]
READING = [
    methodcaller("get_voucher", "A"),
    methodcaller("validate", "A"),
    methodcaller("list_sessions", "A"),
    methodcaller("get_redemption", "A", "order"),
]


class Stub:
    """A client that returns each answer in turn, and raises those that are exceptions."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[Any, ...]] = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.sent.append(args)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class AsyncStub(Stub):
    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return super().execute_command(*args, **options)


def on_both(act: methodcaller, *answers: Any) -> list[Any]:
    """The outcome of the call on the sync and on the asyncio engine, for these answers."""
    return [outcome for outcome, _ in on_both_counted(act, *answers)]


def on_both_counted(act: methodcaller, *answers: Any) -> list[tuple[Any, int]]:
    """The same, with the number of commands that were sent."""
    stub: Any = Stub(*answers)
    async_stub: Any = AsyncStub(*answers)
    sync, waiting = VoucherSessions(stub), AsyncVoucherSessions(async_stub)
    outcomes = outcome(lambda: act(sync)), outcome(lambda: asyncio.run(act(waiting)))
    return [(outcomes[0], len(stub.sent)), (outcomes[1], len(async_stub.sent))]


def outcome(run: Callable[[], Any]) -> Any:
    """The result, or the error."""
    try:
        return run()
    except Exception as error:  # it is what is tested
        return error
