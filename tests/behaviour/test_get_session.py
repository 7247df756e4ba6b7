"""DESIGN.md 3.20: ``get_session`` reads a session."""

from __future__ import annotations

import pytest
from conftest import Backend

from behaviour.cart_session import facts, locked_with, only_or_beside
from behaviour.test_semantics import lock
from voucher_sessions import Voucher, VoucherSessions


@pytest.fixture
def gift(engine: VoucherSessions) -> VoucherSessions:
    engine.put_voucher(Voucher(code="GIFT", quantity=3, credits=1000, points=100))
    return engine


@only_or_beside
def test_get_session_returns_what_validate_returned(
    gift: VoucherSessions, backend: Backend, beside: tuple[str, ...]
) -> None:
    validated = locked_with(gift, beside)
    before = backend.contents()
    session = gift.get_session("GIFT", "cart")
    assert facts(session) == facts(validated)
    assert (session.ttl, session.ttl_unit) == (None, None)
    assert 0 < session.remaining_ms <= validated.remaining_ms
    assert backend.contents() == before
    gift.validate("GIFT", credits=1001, session=lock("cart"))
    assert facts(gift.get_session("GIFT", "cart")) == facts(validated), "a refused override leaves it as it was"
    gift.validate("GIFT", points=9, session=lock("cart", 70_000))
    session = gift.get_session("GIFT", "cart")
    assert (session.credits, session.points) == (0, 9)
