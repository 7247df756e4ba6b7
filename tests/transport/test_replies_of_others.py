"""Replies that are not those to the calls, and errors whose proof fails: no call takes them for its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.servers import Server

from transport.relay import Relay
from voucher_sessions import CorruptState, OutcomeUnknown, ServerUnavailable, Voucher

FOREIGN = b"*2\r\n$3\r\nabc\r\n:1\r\n"
FOREIGN_ERROR = b"-ERR foreign script: x, on @user_script:1.\r\n"


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Iterator[Server]:
    server = server_of("valkey")
    with server.client() as admin:
        admin.flushall()
        admin.acl_setuser("shop", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all", "-echo"])
        yield server
        admin.acl_deluser("shop")


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with Relay(server.socket) as relay:
        yield relay


def url(relay: Relay, user: str = "") -> str:
    return f"redis://{user}127.0.0.1:{relay.port}"


def prepared(engine: Any, relay: Relay) -> Any:
    """The engine, with two vouchers; the server has the scripts."""
    for code in "AB":
        engine.put_voucher(Voucher(code=code, quantity=10))
        engine.redeem(code, redemption_id="order")
        engine.get_redemption(code, "order")
    relay.forget()
    return engine


def first(*replies: bytes) -> Callable[[int, bytes], list[bytes]]:
    """What comes in place of the first reply."""
    return lambda number, reply: [*replies] if number == 0 else [reply]


class TestPipeline:
    def test_a_reply_before_its_own_is_taken_by_no_call(
        self, relay: Relay, engine_at: Callable[..., Any], execute: Callable[..., list[Any]]
    ) -> None:
        engine = prepared(engine_at(url(relay)), relay)
        relay.alter = lambda number, reply: [FOREIGN, reply] if number == 0 else [reply]
        pipe = engine.pipeline().redeem("A", redemption_id="second").redeem("B", redemption_id="second")
        assert [(each.code, each.id) for each in execute(pipe)] == [("A", "second"), ("B", "second")]
        assert [engine.get_voucher(code).quantity.used for code in "AB"] == [2, 2]
        assert relay.connections == 2, "the one that was out of step is closed"

    def test_a_reply_in_place_of_its_own_is_taken_by_no_call(
        self, relay: Relay, engine_at: Callable[..., Any], execute: Callable[..., list[Any]]
    ) -> None:
        engine = prepared(engine_at(url(relay)), relay)
        relay.alter = first(FOREIGN)
        pipe = engine.pipeline().redeem("A", redemption_id="second").redeem("B", redemption_id="second")
        assert [(each.code, each.replayed) for each in execute(pipe)] == [("A", False), ("B", False)]
        assert [engine.get_voucher(code).quantity.used for code in "AB"] == [2, 2]


def test_an_error_whose_proof_was_lost_may_be_that_of_another_call(
    server: Server, relay: Relay, engine_at: Callable[..., Any]
) -> None:
    engine = prepared(engine_at(url(relay)), relay)

    def lose_proof(number: int, reply: bytes) -> list[bytes]:
        with server.client() as admin:
            admin.client_kill_filter(_type="normal", skipme=True)
        return [FOREIGN_ERROR]

    relay.alter = lose_proof
    with pytest.raises(OutcomeUnknown):
        engine.redeem("A", redemption_id="second")
    with pytest.raises(ServerUnavailable):
        engine.get_voucher("A")
    relay.alter = None
    assert engine.redeem("A", redemption_id="second").replayed


class TestOnlyConnectionOfAClient:
    """It has one for all single commands, so ECHO goes over it, too."""

    @pytest.fixture
    def blocked(self, server: Server) -> None:
        """A value that is no voucher's."""
        with server.client() as admin:
            admin.lpush("vs:{C}", "x")

    @pytest.mark.usefixtures("blocked")
    def test_an_error_of_a_script_is_proven_by_echo(self, relay: Relay, engine_at: Callable[..., Any]) -> None:
        engine = prepared(engine_at(url(relay), single_connection_client=True), relay)
        with pytest.raises(CorruptState):
            engine.get_voucher("C")
        assert [command[0] for command in relay.others] == [b"ECHO"]
        assert relay.connections == 1

    @pytest.mark.usefixtures("blocked")
    def test_it_counts_as_well_if_the_user_may_not_run_echo(self, relay: Relay, engine_at: Callable[..., Any]) -> None:
        engine = prepared(engine_at(url(relay, "shop:any@"), single_connection_client=True), relay)
        with pytest.raises(CorruptState):
            engine.get_voucher("C")
        assert [command[0] for command in relay.others] == [b"ECHO"]

    def test_an_error_of_another_script_does_not_count(self, relay: Relay, engine_at: Callable[..., Any]) -> None:
        engine = prepared(engine_at(url(relay), single_connection_client=True), relay)
        relay.alter = lambda number, reply: [FOREIGN_ERROR, reply] if number == 0 else [reply]
        redemption = engine.redeem("A", redemption_id="second")
        assert (redemption.code, redemption.id) == ("A", "second")
        assert engine.get_voucher("A").quantity.used == 2
        assert relay.connections == 2
