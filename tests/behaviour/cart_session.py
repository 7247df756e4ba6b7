"""The session ``cart``, which locks 30 credits and 4 points, and what tests of extend and get_session look at."""

from __future__ import annotations

from typing import Any

import pytest

from behaviour.test_semantics import lock
from voucher_sessions import ActiveSession, VoucherSessions

MS: Any = "MILLISECONDS"
NOT_OF_THE_SESSION = {"remaining_ms", "ttl", "ttl_unit"}
on_fakeredis = pytest.mark.parametrize("backend", ["fakeredis"], indirect=True)
only_or_beside = pytest.mark.parametrize("beside", [(), ("x", "y")], ids=["the only lock", "beside others"])


def facts(session: ActiveSession | None) -> dict[str, Any]:
    assert session is not None
    return session.model_dump(exclude=NOT_OF_THE_SESSION)


def expiry_ms(session: ActiveSession) -> int:
    return round(session.expires_at.timestamp() * 1000)


def locked_with(engine: VoucherSessions, beside: tuple[str, ...], code: str = "GIFT") -> ActiveSession:
    """The session ``cart`` of 60 s, beside locks of others."""
    for key in beside:
        assert engine.validate(code, credits=5, session=lock(key, 50_000)).valid
    session = engine.validate(code, credits=30, points=4, session=lock("cart", 60_000)).session
    assert session is not None
    return session


def assert_nothing_differs(engine: VoucherSessions, code: str = "GIFT") -> None:
    audit = engine.audit(code)
    assert (audit.differs, audit.expiries_agree) == (False, True)
