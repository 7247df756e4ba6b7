"""What the tests of the connection that tasks share have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from support.servers import Server
from support.waiting import until

from voucher_sessions import AsyncVoucherSessions, Voucher, VoucherSessions

NAME = "shared"
CODES = [f"V{number}" for number in range(100)]


def number_of(code: str) -> int:
    """The credits that ``fill`` gives a voucher."""
    return int(code[1:]) + 1000


def fill(server: Server) -> None:
    """Put vouchers that differ in their credits, as the only data of a server."""
    with server.client() as client:
        client.flushall()
        pipe = VoucherSessions(client).pipeline()
        for code in CODES:
            pipe.put_voucher(Voucher(code=code, credits=number_of(code)))
        pipe.execute()


def no_retries() -> Retry:
    return Retry(NoBackoff(), 0)


def connections(server: Server, name: str = NAME) -> list[dict[str, Any]]:
    """What the server tells about the connections of this name."""
    with server.client() as admin:
        return [each for each in admin.client_list() if each["name"] == name]


@asynccontextmanager
async def engine_on(server: Server, durability: Any = None, **options: Any) -> AsyncIterator[AsyncVoucherSessions]:
    """An engine over a client with a name; the connections of both are closed at the end."""
    options.setdefault("client_name", NAME)
    if "port" not in options:
        options.setdefault("unix_socket_path", server.socket)
    async with (
        redis.asyncio.Redis(**options) as client,
        AsyncVoucherSessions(client, durability=durability) as engine,
    ):
        yield engine
    await asyncio.to_thread(until, lambda: not connections(server, options["client_name"]))


async def credits_of(engine: AsyncVoucherSessions, code: str) -> int | None:
    return (await engine.get_voucher(code)).credits.limit


async def all_credits_of(engine: AsyncVoucherSessions, codes: Iterable[str]) -> list[int | None]:
    """Read vouchers all at once, each in a task of its own."""
    return await asyncio.gather(*(credits_of(engine, code) for code in codes))


def ids(connected: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in connected]


def stalled(error: BaseException) -> bool:
    """Whether redis-py gave up waiting."""
    return isinstance(error.__cause__, redis.TimeoutError)
