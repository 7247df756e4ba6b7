"""Calls that both engines make with a ``ScriptedClient``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import methodcaller
from typing import Any

from support.scripted_clients import AsyncScriptedClient, ScriptedClient

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


def on_both(act: methodcaller, *answers: Any) -> list[Any]:
    """The outcome of the call on the sync and on the asyncio engine, for these answers."""
    return [outcome for outcome, _ in on_both_counted(act, *answers)]


def on_both_counted(act: methodcaller, *answers: Any) -> list[tuple[Any, int]]:
    """The same, with the number of commands that were sent."""
    client: Any = ScriptedClient(*answers)
    async_client: Any = AsyncScriptedClient(*answers)
    sync, waiting = VoucherSessions(client), AsyncVoucherSessions(async_client)
    outcomes = outcome(lambda: act(sync)), outcome(lambda: asyncio.run(act(waiting)))
    return [(outcomes[0], len(client.sent)), (outcomes[1], len(async_client.sent))]


def outcome(run: Callable[[], Any]) -> Any:
    """The result, or the error."""
    try:
        return run()
    except Exception as error:  # it is what is tested
        return error
