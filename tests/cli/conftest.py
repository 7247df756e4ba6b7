"""The command line on a server of its own: in this process, and as users start it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import redis
from support.servers import Server
from typer.main import get_command

from cli.running import ABOUT_TERMINALS, Cli
from voucher_sessions import VoucherSessions
from voucher_sessions.cli import main
from voucher_sessions.cli.run import URL_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Typer's runner builds all of them for each call: with coverage, that was a fifth of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(get_command), raising=False)
        yield


@pytest.fixture(scope="session")
def server(server_of: Callable[[str], Server]) -> Server:
    return server_of("valkey")


@pytest.fixture
def admin(server: Server) -> Iterator[redis.Redis]:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def engine(server: Server, admin: redis.Redis) -> Iterator[VoucherSessions]:
    """An engine of the shop, on an empty server."""
    with VoucherSessions.from_url(server.url) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says about terminals and servers must not matter."""
    for name in (URL_VARIABLE, *ABOUT_TERMINALS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(server: Server, engine: VoucherSessions) -> Cli:
    """Runs commands on the server in this process."""
    return Cli(server.url)


class Answering(io.StringIO):
    """A terminal at which somebody answers."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, server: Server) -> Callable[[str, list[str]], int]:
    """Runs a command in this process, which asks a question that is answered."""

    def run(answer: str, words: list[str]) -> int:
        monkeypatch.setenv(URL_VARIABLE, server.url)
        monkeypatch.setattr(sys, "stdin", Answering(answer))
        return main(words)

    return run
