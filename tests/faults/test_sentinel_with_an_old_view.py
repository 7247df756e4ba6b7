"""A sentinel and the old primary come back: clients believe the sentinel until it has learned of the new primary."""

from __future__ import annotations

import time

import pytest
from cluster.topology import Node, Sentinels, running_sentinels
from support.waiting import until

from voucher_sessions import (
    Durability,
    NotDurable,
    RedemptionNotFound,
    Session,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)

DURABILITY = Durability(replicas=1, timeout_ms=100)
SURE = Durability(replicas=1, timeout_ms=20_000)
LOCK = Session(type="LOCK", key="cart")
# X: "LOCK", "key": "cart"}


def fail_over_without(first: Node, sentinels: Sentinels) -> Node:
    """Kill a sentinel, then the primary; the old primary when the others have a new one."""
    others, old = sentinels.sentinels[1:], sentinels.primary(first)
    first.kill()
    old.kill()
    until(lambda: all(sentinels.primary(each) is not old for each in others))
    until(lambda: sentinels.admin(others[0]).info("replication")["connected_slaves"] == 1)
    return old


def test_a_sentinel_with_an_old_view_is_believed_and_durability_refuses_its_primary() -> None:
    with running_sentinels("valkey", down_after_ms=600) as sentinels:
        first, *others = sentinels.sentinels
        with VoucherSessions.from_url(sentinels.url) as engine:
            engine.put_voucher(Voucher(code="CARD", credits=50))
        old = fail_over_without(first, sentinels)
        with VoucherSessions.from_url(sentinels.url, durability=SURE, socket_timeout=30) as engine:
            engine.redeem("CARD", credits=20, redemption_id="before")
        for sentinel in others:  # so that it hears nothing
            sentinel.kill()
        for each in (old, first):
            each.start()
            each.wait()
        with (
            VoucherSessions.from_url(sentinels.url) as plain,
            VoucherSessions.from_url(sentinels.url, durability=DURABILITY) as engine,
        ):
            with pytest.raises(VoucherNotFound):
                plain.get_voucher("CARD")
            with pytest.raises(RedemptionNotFound):
                engine.get_redemption("CARD", "before")
            with pytest.raises(VoucherNotFound):
                engine.redeem("CARD", credits=20, redemption_id="before")
            assert plain.put_voucher(Voucher(code="NEW", credits=1)).credits.limit == 1, "acknowledged, and lost"
            with pytest.raises(NotDurable, match="0 of 1 replicas"):
                engine.validate("NEW", session=LOCK)
            began = time.monotonic()
            for sentinel in others:
                sentinel.start()
            until(lambda: sentinels.primary(first) is not old)
            print(f"the old view lasted for {time.monotonic() - began:.1f} s after the others came back")
        with VoucherSessions.from_url(sentinels.url, durability=SURE, socket_timeout=30) as engine:
            assert engine.redeem("CARD", credits=20, redemption_id="before").replayed
            with pytest.raises(VoucherNotFound):
                engine.get_voucher("NEW")
