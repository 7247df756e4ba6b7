"""Random histories of all verbs on a cluster and through Sentinel, compared with the model after every step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from behaviour.test_state_machine import IDS, KEYS, FEW, OnServer
from conftest import BlockingAsync
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from cluster.topology import Cluster, Sentinels
from voucher_sessions import AsyncVoucherSessions, CrossSlotStack, Redeemable, VoucherSessions

SHORT = settings(FEW, max_examples=12, stateful_step_count=30)


class OnePartition(OnServer):
    """In one partition, so that the vouchers of a stack share a slot."""

    topology: Cluster | Sentinels
    asynchronous: bool
    partition: str | None = "one"

    def open(self) -> None:
        self.admin = self.stack.enter_context(self.admin_client())
        self.admin.flushall()
        options: dict[str, Any] = {"partition": lambda code: self.partition} if self.partition else {}
        if not self.asynchronous:
            self.engine = self.stack.enter_context(VoucherSessions.from_url(self.topology.url, **options))
            return
        loop = asyncio.new_event_loop()
        self.stack.callback(loop.close)
        engine = AsyncVoucherSessions.from_url(self.topology.url, **options)
        self.stack.callback(lambda: loop.run_until_complete(engine.aclose()))
        waited: Any = BlockingAsync(engine, loop)
        self.engine = waited

    def admin_client(self) -> Any:
        return self.topology.admin(self.partition) if isinstance(self.topology, Cluster) else self.topology.admin()


class ThroughSentinel(OnePartition):
    partition = None


class Spread(OnePartition):
    """Each voucher in a slot of its own: a stack of both is refused, and nothing changed by it."""

    partition = None
    has_stacks = False
    no_rule: Any = None
    validate_stack = redeem_stack = redeem_a_stack_and_again = release_stack = rollback_stack = no_rule

    @rule(key=KEYS, redemption_id=IDS, verb=st.sampled_from(["validate", "redeem", "release", "rollback"]))
    def a_stack_is_refused(self, key: str, redemption_id: str, verb: str) -> None:
        stack, codes = [Redeemable(code="A"), Redeemable(code="B")], ["A", "B"]
        calls: dict[str, Callable[[], object]] = {
            "validate": lambda: self.engine.validate_stack(stack, session={"type": "LOCK", "key": key}),
            "redeem": lambda: self.engine.redeem_stack(stack, redemption_id=redemption_id),
            "release": lambda: self.engine.release_stack(codes, key),
            "rollback": lambda: self.engine.rollback_stack(codes, redemption_id),
        }
        with pytest.raises(CrossSlotStack):
            calls[verb]()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("machine", [OnePartition, Spread, ThroughSentinel])
def test_random_histories_match_the_model_on_cluster_and_sentinel(
    machine: type[OnePartition], asynchronous: bool, request: pytest.FixtureRequest
) -> None:
    topology = request.getfixturevalue("sentinels" if machine is ThroughSentinel else "cluster")
    run_state_machine_as_test(
        type("OnThis", (machine,), {"topology": topology, "asynchronous": asynchronous}), settings=SHORT
    )
