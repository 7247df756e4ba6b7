"""A call never takes the reply to another command for its own, and believes an error only with a proof.

The clients here stand for one connection: replies come in the order of the commands. ``unread`` are replies to earlier
commands, which an interrupted caller has left. ``tests/faults/test_out_of_step.py`` does the same on real connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import redis.exceptions
from redis._parsers import _HiredisParser
from support import untyped
from support.scripted_clients import AsyncScriptedClient, ScriptedClient, call_id_of

from voucher_sessions import OutcomeUnknown, ServerRefused
from voucher_sessions._core import scripts
from voucher_sessions._transport import clients
from voucher_sessions._transport.closed_connections import is_of_interrupted_opening

STATE = [b"state", -1, 0, 0, 0, 0, 0, 0, 0, 0]
DELETED = [b"deleted", 1]
NOPERM_ECHO = redis.exceptions.NoPermissionError("User checkout has no permissions to run the 'echo' command")
BUSY = redis.exceptions.ResponseError("BUSY Redis is busy running a script")
WRONGPASS = redis.exceptions.AuthenticationError("WRONGPASS invalid username-password pair")


class OneConnection(ScriptedClient):
    """One connection, to a server that replies to each script as ``right`` says; ECHO gives ``echo`` if that is set."""

    def __init__(self, right: Any, unread: list[Any], echo: Any = None) -> None:
        super().__init__()
        self.right, self.echo = right, echo
        self.unread: deque[Any] = deque(unread)
        self.closed = 0
        self.connection_pool = self

    def reply(self, command: tuple[Any, ...]) -> Any:
        self._replies = [self.right]
        own = super().reply(command)
        self.unread.append(self.echo if command[0] == "ECHO" and self.echo is not None else own)
        return self.unread.popleft()

    def disconnect(self, inuse_connections: bool = True) -> Any:
        self.closed += 1
        self.unread.clear()


class AsyncOneConnection(OneConnection, AsyncScriptedClient):
    async def disconnect(self, inuse_connections: bool = True) -> None:
        super().disconnect(inuse_connections)


def outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # it is what is tested
        return error


def delete(client: OneConnection) -> Any:
    """The outcome of a call that changes something."""
    if isinstance(client, AsyncOneConnection):
        return outcome_of(lambda: asyncio.run(untyped.AsyncVoucherSessions(client).delete_voucher("A")))
    return outcome_of(lambda: untyped.VoucherSessions(client).delete_voucher("A"))


def delete_three(client: OneConnection) -> list[Any]:
    """The outcomes of three such calls in one batch."""
    if isinstance(client, AsyncOneConnection):
        pipe = untyped.AsyncVoucherSessions(client).pipeline()
        pipe.delete_voucher("A").delete_voucher("B").delete_voucher("C")
        return list(asyncio.run(pipe.execute(raise_on_error=False)))
    batch = untyped.VoucherSessions(client).pipeline()
    return list(batch.delete_voucher("A").delete_voucher("B").delete_voucher("C").execute(raise_on_error=False))


UNREAD: dict[str, list[Any]] = {
    "a reply with another id": [[b"x" * 11, b"deleted", 0]],
    "no reply of a script": [b"OK"],
    "an error": [redis.exceptions.ResponseError("ERR something else")],
    "two errors": [redis.exceptions.ResponseError("ERR something else")] * 2,
    "five errors alike": [BUSY] * 5,
    "unknown script": [redis.exceptions.NoScriptError("NOSCRIPT No matching script")],
    "no permission": [redis.exceptions.NoPermissionError("User checkout has no permissions")],
    "no permission for ECHO": [NOPERM_ECHO],
    "a refused login": [WRONGPASS],
    "two refused logins": [WRONGPASS] * 2,
}


@pytest.mark.parametrize("kind", [OneConnection, AsyncOneConnection])
@pytest.mark.parametrize("unread", UNREAD.values(), ids=list(UNREAD))
def test_each_call_gets_its_own_reply(kind: type[OneConnection], unread: list[Any]) -> None:
    client = kind(DELETED, unread)
    assert delete(client) is True
    assert client.closed
    assert not client.unread, "the connection is in step again"
    client = kind(DELETED, unread)
    assert delete_three(client) == [True] * 3
    assert client.closed
    assert not client.unread


@pytest.mark.parametrize("kind", [OneConnection, AsyncOneConnection])
def test_in_a_batch_an_own_reply_proves_those_before_it(kind: type[OneConnection]) -> None:
    """Nothing is sent again if ECHO alone gets a strange reply: that of the last call proves all."""
    client = kind(DELETED, [], echo=b"strange")
    assert delete_three(client) == [True] * 3
    assert [command[0] for command in client.sent] == ["EVAL", "EVALSHA", "EVALSHA", "ECHO"]


@pytest.mark.parametrize("kind", [OneConnection, AsyncOneConnection])
@pytest.mark.parametrize("echo", [None, NOPERM_ECHO, BUSY])
def test_an_error_of_the_server_counts_once_it_is_proven(kind: type[OneConnection], echo: Any) -> None:
    """ECHO works; or the user may not run it, or the server refuses it too, also on a new connection."""
    client = kind(BUSY, [], echo)
    outcome = delete(client)
    assert isinstance(outcome, ServerRefused)
    assert outcome.__cause__ is BUSY
    assert (client.closed > 0) is (echo is not None)
    assert [type(each) for each in delete_three(kind(BUSY, [], echo))] == [ServerRefused] * 3


@pytest.mark.parametrize("kind", [OneConnection, AsyncOneConnection])
def test_an_error_that_is_never_proven_is_a_lost_reply(kind: type[OneConnection]) -> None:
    outcome = delete(kind(BUSY, [], echo=b"strange"))
    assert isinstance(outcome, OutcomeUnknown)


class LoginRefused(OneConnection):
    """A client that cannot log in: it raises the error for each new connection."""

    def execute_command(self, *command: Any, **_: Any) -> Any:
        raise WRONGPASS

    def pipeline(self, **_: Any) -> Any:
        raise WRONGPASS


class AsyncLoginRefused(LoginRefused, AsyncOneConnection):
    async def execute_command(self, *command: Any, **_: Any) -> Any:
        raise WRONGPASS


@pytest.mark.parametrize("kind", [LoginRefused, AsyncLoginRefused])
def test_a_login_that_is_refused_on_a_new_connection_too_is_raised(kind: type[OneConnection]) -> None:
    client = kind(DELETED, [])
    assert delete(client) is WRONGPASS
    assert client.closed == 1


@pytest.mark.parametrize("kind", [OneConnection, AsyncOneConnection])
def test_a_client_with_one_connection_is_closed_before_the_proof(kind: type[OneConnection]) -> None:
    """Its pipelines use a pool, so that they could prove nothing about the connection."""
    client: Any = kind(BUSY, [])
    client.connection = client
    assert isinstance(delete(client), ServerRefused)
    assert client.closed


class HalfOpen(OneConnection):
    """A connection whose opening was interrupted; closed, it is whole again."""

    def execute_command(self, *command: Any, **options: Any) -> Any:
        self._raise_if_half_open()
        return super().execute_command(*command, **options)

    def pipeline(self, **options: Any) -> Any:
        self._raise_if_half_open()
        return super().pipeline(**options)

    def _raise_if_half_open(self) -> None:
        if not self.closed:
            parser: Any = _HiredisParser(65536)
            _ = parser._reader  # which it has once it is connected


def test_a_connection_that_is_half_open_is_closed_and_the_call_sent_again() -> None:
    client = HalfOpen(DELETED, [])
    assert delete(client) is True
    assert client.closed == 1
    client = HalfOpen(DELETED, [])
    assert delete_three(client) == [True] * 3
    assert client.closed == 1


def test_an_attribute_error_of_the_application_is_none_of_a_half_open_connection() -> None:
    assert not is_of_interrupted_opening(AttributeError("x", name="_reader", obj=object()))


class Cluster(OneConnection):
    """A cluster's client with one server. What is sent together gets ``together``, if that is set."""

    def __init__(self, right: Any, single: list[Any], together: Any = None) -> None:
        super().__init__(right, [])
        self._single, self._together = single, together
        self.nodes_manager = self
        self.name = "the only node"

    def initialize(self) -> Any:
        return None

    def get_nodes(self) -> list[Any]:
        return []

    def get_node_from_key(self, key: bytes) -> Any:
        return self

    def get_redis_connection(self, node: Any) -> Any:
        return self

    def execute_command(self, *command: Any, **options: Any) -> Any:
        if command[1] == scripts.AGREE_ON_PARTITION.sha:
            return [call_id_of(command), b"partition", command[-1].encode()]
        if self._single:
            self.sent.append(command)
            raise self._single.pop(0)
        reply = self.reply(command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def reply(self, command: tuple[Any, ...]) -> Any:
        own = super().reply(command)
        return self._together if self._together is not None and command[0] == "EVAL" else own


class AsyncCluster(Cluster, AsyncOneConnection):
    async def initialize(self) -> None:
        return None

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        return Cluster.execute_command(self, *command, **options)

    async def execute_pipeline(self, commands: list[Any]) -> None:
        for command in commands:
            command.result = self.reply(command.args)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "is_cluster", lambda client: isinstance(client, Cluster))


NOSCRIPT = redis.exceptions.NoScriptError("NOSCRIPT No matching script")
ASK = redis.exceptions.AskError("1 127.0.0.1:1")


def test_on_a_cluster_a_script_is_loaded_by_a_command_that_follows_its_slot(cluster: None) -> None:
    for client in (Cluster(DELETED, [NOSCRIPT]), AsyncCluster(DELETED, [NOSCRIPT])):
        assert delete(client) is True
        assert [command[0] for command in client.sent] == ["EVALSHA", "EVAL"]


def test_on_a_cluster_an_error_behind_an_unknown_script_is_proven(cluster: None) -> None:
    for client in (Cluster(BUSY, [NOSCRIPT]), AsyncCluster(BUSY, [NOSCRIPT])):
        assert isinstance(delete(client), ServerRefused)
        assert [command[0] for command in client.sent] == ["EVALSHA", "EVAL", "EVAL", "ECHO"]


def test_on_a_cluster_an_error_from_a_slot_that_moves_is_raised(cluster: None) -> None:
    """ECHO would be sent to the server that no longer has the slot."""
    assert isinstance(delete(Cluster(STATE, [BUSY], ASK)), ServerRefused)
    assert isinstance(delete(AsyncCluster(STATE, [BUSY], ASK)), ServerRefused)
