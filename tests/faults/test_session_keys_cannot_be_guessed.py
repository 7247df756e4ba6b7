"""A session key is a capability: generated keys cannot be guessed, and logs and reprs do not show keys."""

from __future__ import annotations

import asyncio
import logging
import math
import pprint
import random
import secrets
import string
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pytest
import redis
import redis.asyncio
from pydantic import BaseModel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.servers import Server

from faults.recorded_replies import KEY, RECORDED_CALLS, SESSION
from faults.recording_clients import assert_no_session_key
from faults.test_hostile_input import VERBS
from voucher_sessions import (
    ActiveSession,
    AsyncVoucherSessions,
    Redeemable,
    Redemption,
    Release,
    Session,
    SessionType,
    Voucher,
    VoucherSessions,
    VoucherSessionsError,
)
from voucher_sessions._core import requests
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs
from voucher_sessions.models import Request

NOW: Final = datetime(2026, 11, 21, tzinfo=UTC)
LIVE: Final = ActiveSession(
    key=KEY, type=SessionType.LOCK, quantity=1, credits=0, points=0, expires_at=NOW, remaining_ms=5
)
BOOKED: Final = Redemption(
    id="order",
    code="A",
    session_key=KEY,
    quantity=1,
    credits=0,
    points=0,
    redeemed_at=NOW,
    rolled_back=False,
    replayed=False,
)


LETTERS: Final = string.ascii_letters + string.digits


# --- Generated keys ------------------------------------------------------------------------------------------------


class FakeSecrets:
    """In the place of ``secrets``: keeps how many bytes it was asked for, and gives others at each call."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def token_bytes(self, length: int) -> bytes:
        self.asked.append(length)
        return bytes((len(self.asked) + 7 * at) % 256 for at in range(length))

    def token_hex(self, length: int) -> str:
        return self.token_bytes(length).hex()


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> FakeSecrets:
    """The only source of chance that is left."""
    source = FakeSecrets()

    def guessable(*_: object, **__: object) -> Any:
        raise AssertionError("not a cryptographic source")

    for name in ("random", "randint", "randrange", "choice", "choices", "sample", "getrandbits", "randbytes"):
        monkeypatch.setattr(random, name, guessable)
    monkeypatch.setattr(requests, "secrets", source)
    return source


MAKES_A_KEY: Final[list[Callable[[Verbs], Any]]] = [
    lambda calls: calls.validate("A", 0, 0, {"type": "LOCK"}),
    lambda calls: calls.validate("A", 0, 0, Session(type=SessionType.LOCK)),
    lambda calls: calls.validate_stack([Redeemable(code="A")], {"type": "LOCK", "key": None}, ()),
]


@pytest.mark.parametrize("make", MAKES_A_KEY)
def test_a_generated_key_has_128_bits_of_a_cryptographic_source(
    source: FakeSecrets, make: Callable[[Verbs], Any]
) -> None:
    key = make(Verbs(Keys("vs"), None)).session_key
    assert key.startswith("ssn_")
    assert sum(source.asked) * 8 >= 128
    assert set(key[4:]) <= set(LETTERS)
    assert len(key[4:]) == 32
    assert math.log2(len(LETTERS)) * 32 >= 128
    other = make(Verbs(Keys("vs"), None)).session_key
    assert other[4:] != key[4:]
    assert len(set(key[4:])) > 1


def test_each_character_is_equally_likely(source: FakeSecrets, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes that the source can give stand for each letter equally often, or for none; so each carries log2(62)."""
    monkeypatch.setattr(source, "token_bytes", lambda length: bytes(range(256)))
    assert Counter(requests.random_text(248)) == dict.fromkeys(LETTERS, 4)


def test_the_random_source_is_the_operating_system() -> None:
    assert vars(requests)["secrets"] is secrets
    assert issubclass(secrets.SystemRandom, random.SystemRandom)


# --- What people read ----------------------------------------------------------------------------------------------


SHOWN: Final[list[BaseModel]] = [
    Session(key=KEY),
    Session(type=SessionType.LOCK, key=KEY),
    LIVE,
    BOOKED,
    Release(code="A", session_key=KEY, released=True, ended=False),
]


@pytest.mark.parametrize("model", SHOWN, ids=lambda model: type(model).__name__)
def test_a_repr_shows_the_beginning_of_a_key_and_a_dump_all_of_it(model: BaseModel) -> None:
    texts = [repr(model), str(model), f"{model}", f"{model!r}", repr([model]), repr({"a": (model,)})]
    shown: Any = model  # what rich and devtools ask of it
    texts += [pprint.pformat(model), repr(list(shown.__rich_repr__())), "".join(map(str, shown.__pretty__(str)))]
    for text in texts:
        assert KEY not in text
    assert f"key='{KEY[:8]}…'" in repr(model)
    field = "session_key" if hasattr(model, "session_key") else "key"
    assert model.model_dump()[field] == model.model_dump(mode="json")[field] == KEY
    assert f'"{KEY}"' in model.model_dump_json()
    assert type(model).model_validate(model.model_dump()) == model
    assert repr(model.model_copy(update={field: None})).count(f"{field}=None") == 1


def test_every_model_with_a_key_is_shown() -> None:
    def below(kind: type[Any]) -> Iterator[type[Any]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    ours = {each for each in below(BaseModel) if each.__module__.startswith("voucher_sessions")}
    assert Request in ours
    with_a_key = {each for each in ours if any("key" in name for name in each.model_fields)}
    assert with_a_key == {type(model) for model in SHOWN}


@pytest.mark.parametrize("key", ["k", "k1", "cart", "cart-471"])
def test_a_short_key_is_not_shown_in_full_either(key: str) -> None:
    assert f"'{key}" not in repr(Release(code="A", session_key=key, released=True, ended=False))
    assert f"'{key}" not in repr(Session(key=key))


def test_a_call_shows_neither_its_keys_nor_its_arguments() -> None:
    calls = Verbs(Keys("vs"), None)
    made: list[Call[Any]] = [
        calls.validate("A", 5, 0, SESSION),
        calls.validate_stack([Redeemable(code="A")], SESSION, ["B"]),
        calls.redeem("A", None, None, KEY, None, "raise"),
        calls.redeem_stack([Redeemable(code="A")], KEY, "order", "raise"),
        calls.release("A", KEY),
        calls.release_stack(["A"], KEY),
    ]
    for call in made:
        assert KEY in str([call.keys, call.args]), "else this test shows nothing"
        assert KEY not in repr(call)
        assert KEY not in str(call)
        assert call.verb in repr(call)


def test_no_log_shows_a_key(server_of: Callable[[str], Server], caplog: pytest.LogCaptureFixture) -> None:
    """All verbs, both engines, asyncio's debug mode, redis-py's retries, and servers that are not there."""
    server = server_of("valkey")
    with caplog.at_level(logging.DEBUG), server.client() as client:
        logging.getLogger("voucher_sessions").debug("captured")
        client.flushall()
        engine = VoucherSessions(client)
        for code in "AB":
            engine.put_voucher(Voucher(code=code, credits=50))
            engine.validate(code, session=SESSION)
        nowhere = redis.Redis(unix_socket_path=server.socket + "-none", retry=Retry(NoBackoff(), 0))
        for recorded_call in RECORDED_CALLS:
            for each in (engine, VoucherSessions(nowhere)):
                attempt(partial(recorded_call.call, each))
        asyncio.run(make_every_call(server.socket), debug=True)
        nowhere.close()
    assert {recorded_call.verb for recorded_call in RECORDED_CALLS} == set(VERBS)
    assert any(record.getMessage() == "captured" for record in caplog.records)
    for record in caplog.records:
        text = logging.Formatter().format(record)
        assert KEY not in text + repr(record.args) + repr(vars(record))


def attempt(run: Callable[[], Any]) -> None:
    try:
        run()
    except (VoucherSessionsError, redis.RedisError) as error:
        assert_no_session_key(error)


async def make_every_call(socket: str) -> None:
    for path in (socket, socket + "-none"):
        async with redis.asyncio.Redis(unix_socket_path=path, retry=AsyncRetry(NoBackoff(), 0)) as client:
            for recorded_call in RECORDED_CALLS:
                try:
                    await recorded_call.call(AsyncVoucherSessions(client))
                except (VoucherSessionsError, redis.RedisError) as error:
                    assert_no_session_key(error)
