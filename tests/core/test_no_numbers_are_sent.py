"""The engine sends numbers as text: hiredis can crash the process if a signal handler raises while it packs a number."""

from __future__ import annotations

from typing import Any

import pytest
from faults.recorded_replies import RECORDED_CALLS, RecordedCall, right_replies
from faults.test_hostile_input import QUEUED
from faults.test_hostile_replies import outcome, run_through
from support.scripted_clients import AsyncScriptedClient, ScriptedClient

from voucher_sessions import AsyncVoucherSessions, Durability, VoucherSessions

DURABILITY = [None, Durability(replicas=1, timeout_ms=1), Durability(replicas=2, fsync=True)]


def assert_text(client: ScriptedClient) -> None:
    assert client.sent
    for command in client.sent:
        assert {type(argument) for argument in command} <= {str, bytes}, command


@pytest.mark.parametrize("durability", DURABILITY, ids=repr)
@pytest.mark.parametrize("recorded_call", RECORDED_CALLS, ids=repr)
def test_every_argument_of_every_verb_is_text(recorded_call: RecordedCall, durability: Durability | None) -> None:
    replies = right_replies(recorded_call)
    client: Any = ScriptedClient(*replies)
    outcome(lambda: recorded_call.call(VoucherSessions(client, durability=durability, receipt_ttl=6000)))
    assert_text(client)
    waiting: Any = AsyncScriptedClient(*replies)
    engine = AsyncVoucherSessions(waiting, durability=durability, receipt_ttl=6000)
    outcome(lambda: run_through(recorded_call.call(engine)))
    assert_text(waiting)
    if recorded_call.verb in QUEUED:
        piped: Any = ScriptedClient(*replies)
        pipe = VoucherSessions(piped, durability=durability).pipeline()
        outcome(lambda: recorded_call.call(pipe).execute(raise_on_error=False))
        assert_text(piped)


@pytest.mark.parametrize("durability", DURABILITY, ids=repr)
def test_every_argument_of_check_server_is_text(durability: Durability | None) -> None:
    client: Any = ScriptedClient()
    outcome(lambda: VoucherSessions(client, durability=durability).check_server())
    assert_text(client)
    waiting: Any = AsyncScriptedClient()
    outcome(lambda: run_through(AsyncVoucherSessions(waiting, durability=durability).check_server()))
    assert_text(waiting)


def test_what_engines_with_a_partition_send_first_is_text() -> None:
    client: Any = ScriptedClient()
    outcome(lambda: VoucherSessions(client, partition=lambda code: code[:1]).get_voucher("A"))
    assert_text(client)
