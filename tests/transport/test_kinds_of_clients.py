"""Which clients an engine takes, and what it sends: asyncio clients that are wrapped, valkey-py, numbers as text."""

from __future__ import annotations

import asyncio
import functools
from operator import methodcaller
from typing import Any

import fakeredis
import pytest
import redis.asyncio
import redis.exceptions
import valkey
import valkey.asyncio
from core.both_engines import CHANGING, READING, outcome
from support import untyped
from support.scripted_clients import AsyncScriptedClient, ScriptedClient

from voucher_sessions import AsyncVoucherSessions, Durability, InvalidRequest, Used, Voucher, VoucherSessions

MORE = [
    methodcaller("put_voucher", Voucher(code="A", quantity=3, credits=5, points=7), used=Used(credits=2)),
    methodcaller("validate", "A", credits=5, points=7, session={"type": "LOCK", "ttl": 15, "ttl_unit": "MINUTES"}),
    methodcaller("validate_stack", [{"code": "A", "credits": 5}], session={"type": "LOCK"}),
    methodcaller("redeem", "A", credits=5, points=7),
    methodcaller("redeem_stack", [{"code": "A", "credits": 5}], session="cart"),
    methodcaller("release_stack", ["A"], "cart"),
    methodcaller("rollback_stack", ["A"], "order"),
    methodcaller("audit", "A"),
    methodcaller("repair", "A"),
]


class OwnClient(valkey.Valkey):
    """A subclass, as instrumentation or an application may make one."""


@pytest.mark.parametrize(
    ("engine", "client"),
    [
        (VoucherSessions, valkey.Valkey()),
        (VoucherSessions, OwnClient()),
        (VoucherSessions, valkey.asyncio.Valkey()),
        (AsyncVoucherSessions, valkey.asyncio.Valkey()),
        (AsyncVoucherSessions, valkey.Valkey()),
    ],
)
def test_a_client_of_valkey_py_is_refused_with_the_way_out(engine: type[Any], client: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"valkey-py.*redis-py speaks to Valkey.*from_url") as refused:
        engine(client)
    assert refused.value.field == "client"


def wrapped(client: Any) -> Any:
    """What instrumentation does: a plain function instead of the method, which returns the coroutine."""
    execute = client.execute_command

    def execute_command(*words: Any, **options: Any) -> Any:
        return execute(*words, **options)

    client.execute_command = execute_command
    return client


def test_a_wrapped_asyncio_client_is_still_one() -> None:
    async def use() -> None:
        async with wrapped(fakeredis.FakeAsyncRedis()) as client:
            engine = AsyncVoucherSessions(client)
            await engine.put_voucher(Voucher(code="A", quantity=1))
            assert (await engine.validate("A")).valid

    asyncio.run(use())
    for client in (wrapped(fakeredis.FakeAsyncRedis()), wrapped(redis.asyncio.Redis())):
        with pytest.raises(InvalidRequest, match="is an asyncio client: use AsyncVoucherSessions"):
            VoucherSessions(client)
    with fakeredis.FakeRedis() as client:
        assert VoucherSessions(wrapped(client)).validate("A").reason == "not_found"


def test_a_wrapped_class_of_asyncio_clients_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As instrumentation wraps it for all clients of a process."""
    execute: Any = redis.asyncio.Redis.execute_command

    def execute_command(*words: Any, **options: Any) -> Any:
        return execute(*words, **options)

    monkeypatch.setattr(redis.asyncio.Redis, "execute_command", execute_command)
    assert AsyncVoucherSessions(redis.asyncio.Redis())
    with pytest.raises(InvalidRequest, match="is an asyncio client"):
        untyped.VoucherSessions(redis.asyncio.Redis())


def test_a_wrapper_that_is_no_client_of_redis_py() -> None:
    class Wrapper:
        def __init__(self, client: Any) -> None:
            @functools.wraps(client.execute_command)
            def execute_command(*words: Any, **options: Any) -> Any:
                return client.execute_command(*words, **options)

            self.execute_command = execute_command

    waiting: Any = Wrapper(fakeredis.FakeAsyncRedis())
    assert AsyncVoucherSessions(waiting)
    with pytest.raises(InvalidRequest, match="is an asyncio client"):
        VoucherSessions(waiting)


@pytest.mark.parametrize("durability", [None, Durability(replicas=1), Durability(fsync=True)], ids=repr)
@pytest.mark.parametrize("act", [*CHANGING, *READING, *MORE], ids=repr)
@pytest.mark.parametrize("error", [None, redis.exceptions.NoScriptError("NOSCRIPT")], ids=repr)
def test_everything_is_sent_as_text_or_bytes(
    act: methodcaller, durability: Durability | None, error: Exception | None
) -> None:
    """hiredis crashes the process if a signal handler raises while it packs an int."""
    replies = [error, [b"nonsense"]] if error else [[b"nonsense"]]
    client: Any = ScriptedClient(*replies)
    async_client: Any = AsyncScriptedClient(*replies)
    outcome(lambda: act(VoucherSessions(client, durability=durability, receipt_ttl=600)))
    waiting = AsyncVoucherSessions(async_client, durability=durability, receipt_ttl=600)
    outcome(lambda: asyncio.run(act(waiting)))
    pipeline = VoucherSessions(client, durability=durability).pipeline()
    if act not in MORE[-2:]:
        act(pipeline)
        outcome(pipeline.execute)
    for sent in (client.sent, async_client.sent):
        assert sent
        assert {type(word) for command in sent for word in command} <= {str, bytes}
