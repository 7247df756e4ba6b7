"""The connection that tasks share is set up as those of the application's client are."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.credentials import CredentialProvider, StreamingCredentialProvider
from support import tls
from support.servers import Server, free_port
from support.waiting import until

from transport.relay import Relay
from transport.shared_engines import (
    CODES,
    NAME,
    all_credits_of,
    connections,
    credits_of,
    engine_on,
    fill,
    no_retries,
    number_of,
)
from voucher_sessions import AsyncVoucherSessions, ServerUnavailable, Voucher

NUMBERS = list(map(number_of, CODES))


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    server = server_of("valkey")
    fill(server)
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">first", ">second", "~*", "&*", "+@all")
    return server


class Provider(CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return "shop", "first"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"protocol": 2}, {"resp": "2", "user": "default", "db": "0"}),
        ({"protocol": 3}, {"resp": "3"}),
        ({"protocol": 2, "decode_responses": True}, {"resp": "2"}),
        ({"protocol": 3, "decode_responses": True}, {"resp": "3"}),
        ({"db": 3}, {"db": "3"}),
        ({"username": "shop", "password": "first"}, {"user": "shop"}),
        ({"credential_provider": Provider()}, {"user": "shop"}),
        ({"client_name": "checkout"}, {"name": "checkout"}),
        ({"health_check_interval": 30}, {}),
        ({"socket_timeout": None}, {}),
        ({"single_connection_client": False, "max_connections": 1}, {}),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_a_connection_has_the_options_of_the_client(
    server: Server, options: dict[str, Any], told: dict[str, str]
) -> None:
    async def main() -> None:
        async with engine_on(server, **options) as engine:
            await engine.put_voucher(Voucher(code="other", credits=5))
            assert await all_credits_of(engine, ["other"] * 50) == [5] * 50
            (connected,) = connections(server, options.get("client_name", NAME))
            assert {name: connected[name] for name in told} == told

    asyncio.run(main())
    with server.client(db=options.get("db", 0)) as admin:
        assert admin.exists("vs:{other}")


def test_a_refused_login_is_told_to_all_that_wait(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, username="shop", password="wrong", retry=no_retries()) as engine:
            outcomes = await asyncio.gather(*(engine.get_voucher(code) for code in CODES), return_exceptions=True)
            for each in outcomes:
                assert isinstance(each, redis.ConnectionError)
                assert not isinstance(each, ServerUnavailable), "no later try can succeed"
                assert isinstance(each.__cause__, redis.AuthenticationError)

    asyncio.run(main())


@pytest.mark.parametrize("name", tls.SERVERS)
def test_tls(name: str, tmp_path: Path) -> None:
    port = free_port()

    async def main(files: tls.Files) -> None:
        options: dict[str, Any] = {
            "ssl": True,
            "ssl_ca_certs": str(files.authority),
            "ssl_certfile": str(files.client_certificate),
            "ssl_keyfile": str(files.client_key),
        }
        client = redis.asyncio.Redis(host="127.0.0.1", port=port, **options)
        async with client, AsyncVoucherSessions(client) as engine:
            await asyncio.gather(*(engine.put_voucher(Voucher(code=code, credits=number_of(code))) for code in CODES))
            assert await all_credits_of(engine, CODES) == NUMBERS

    with tls.tls_server(name, tmp_path, port) as files:
        asyncio.run(main(files))


# --- Credentials that are renewed ----------------------------------------------------------------------------------


class Token:
    def __init__(self, value: str) -> None:
        self._value = value

    def try_get(self, key: str) -> str:
        return "shop"

    def get_value(self) -> str:
        return self._value


class Streaming(StreamingCredentialProvider):
    """A provider whose token a test renews."""

    def __init__(self) -> None:
        self.password = "first"
        self._listening: list[Callable[[Any], Awaitable[None]]] = []

    def get_credentials(self) -> tuple[str, str]:
        return "shop", self.password

    def on_next(self, callback: Callable[[Any], Any]) -> None:
        self._listening.append(callback)

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        pass

    def is_streaming(self) -> bool:
        return True

    async def renew(self, password: str) -> None:
        self.password = password
        for each in self._listening:
            await each(Token(password))


def test_a_new_token_is_used_on_a_new_connection_after_the_replies_to_what_was_sent(server: Server) -> None:
    async def main(relay: Relay) -> None:
        provider = Streaming()
        async with engine_on(server, port=relay.port, credential_provider=provider, retry=no_retries()) as engine:
            await credits_of(engine, "V0")
            relay.hold()
            sent = [asyncio.ensure_future(credits_of(engine, code)) for code in CODES[:50]]
            await relay.came(50)
            await provider.renew("second")
            later = [asyncio.ensure_future(credits_of(engine, code)) for code in CODES[50:]]
            relay.let_go()
            assert await asyncio.gather(*sent, *later) == NUMBERS
            assert relay.connections == 2
            logins = [command for command in relay.others if b"second" in command]
            assert len(logins) == 1
            await asyncio.to_thread(until, lambda: len(connections(server)) == 1)
            await provider.renew("first")
            assert await credits_of(engine, "V0") == number_of("V0"), "it was idle"
            assert relay.connections == 3

    with Relay(server.socket) as relay:
        asyncio.run(main(relay))


class RenewedWhileConnecting(Streaming):
    """Has a new token just after the first one was asked for."""

    async def get_credentials_async(self) -> tuple[str, str]:
        asked = self.get_credentials()
        if self.password == "first":
            await self.renew("second")
        return asked


def test_a_token_that_was_renewed_while_a_connection_was_opened_is_used(server: Server) -> None:
    async def main(relay: Relay) -> None:
        async with engine_on(server, port=relay.port, credential_provider=RenewedWhileConnecting()) as engine:
            assert await credits_of(engine, "V0") == number_of("V0")
            assert relay.connections == 2

    with Relay(server.socket) as relay:
        asyncio.run(main(relay))


def test_options_that_a_connection_does_not_take_are_reported_as_redis_py_does(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server) as engine:
            client: Any = engine.client
            client.connection_pool.connection_kwargs["nonsense"] = 1
            with pytest.raises(TypeError, match="nonsense"):
                await credits_of(engine, "V0")

    asyncio.run(main())


# --- Without hiredis -----------------------------------------------------------------------------------------------

WITHOUT_HIREDIS = """
import sys
sys.modules["hiredis"] = None
import asyncio, logging, redis.asyncio, redis.utils
logging.getLogger("asyncio").setLevel(logging.ERROR)  # not that a busy machine is slow
from voucher_sessions import AsyncVoucherSessions, CorruptState
assert not redis.utils.HIREDIS_AVAILABLE
async def main(protocol):
    async with (
        redis.asyncio.Redis(unix_socket_path=sys.argv[1], protocol=protocol) as client,
        AsyncVoucherSessions(client) as engine,
    ):
        states = await asyncio.gather(*(engine.get_voucher(f"V{at % 100}") for at in range(1000)))
        assert [each.credits.limit for each in states] == [at % 100 + 1000 for at in range(1000)]
        await engine.redeem("V0", credits=1, redemption_id=f"order-{protocol}")
        try:
            await engine.get_voucher("blocked")
        except CorruptState:
            pass
        else:
            raise AssertionError
for protocol in (2, 3):
    asyncio.run(main(protocol))
"""


def test_without_hiredis(server: Server) -> None:
    with server.client() as admin:
        admin.lpush("vs:{blocked}", "x")
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", WITHOUT_HIREDIS, server.socket]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_parser_of_the_applications_choice(server: Server, protocol: int) -> None:
    from redis._parsers import _AsyncRESP2Parser, _AsyncRESP3Parser

    async def main() -> None:
        pool = redis.asyncio.ConnectionPool(
            connection_class=redis.asyncio.UnixDomainSocketConnection,
            path=server.socket,
            protocol=protocol,
            parser_class=_AsyncRESP3Parser if protocol == 3 else _AsyncRESP2Parser,
        )
        async with redis.asyncio.Redis(connection_pool=pool) as client, AsyncVoucherSessions(client) as engine:
            assert await all_credits_of(engine, CODES * 5) == NUMBERS * 5
        await pool.disconnect()

    asyncio.run(main())


ENDS_OVER_TLS = """
import asyncio, logging, redis.asyncio, sys
from voucher_sessions import AsyncVoucherSessions
logging.getLogger("asyncio").setLevel(logging.ERROR)  # not that a busy machine is slow
async def main(closes):
    port, authority, certificate, key = sys.argv[1:]
    client = redis.asyncio.Redis(
        port=int(port), ssl=True, ssl_ca_certs=authority, ssl_certfile=certificate, ssl_keyfile=key, host="127.0.0.1"
    )
    engine = AsyncVoucherSessions(client)
    assert not (await engine.validate("V0")).valid
    if closes:
        await engine.aclose()
for at in range(10):
    asyncio.run(main(at % 2))
"""


@pytest.mark.parametrize("name", tls.SERVERS)
def test_an_event_loop_ends_without_a_warning_over_tls(name: str, tmp_path: Path) -> None:
    port = free_port()
    with tls.tls_server(name, tmp_path, port) as files:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", ENDS_OVER_TLS, str(port), *map(str, files)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
