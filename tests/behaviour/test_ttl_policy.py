"""DESIGN.md 3.5: how long sessions live that name no time to live, and the longest time that one may ask for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import fakeredis
import pytest
from conftest import Backend

from voucher_sessions import InvalidRequest, Voucher, VoucherSessions

MINUTE, DAY = 60_000, 86_400_000
Make = Callable[..., VoucherSessions]


@pytest.mark.parametrize(
    ("options", "remaining_ms", "ttl"),
    [
        ({}, 7 * DAY, (7, "DAYS")),
        ({"default_ttl": 900}, 15 * MINUTE, (15, "MINUTES")),
        ({"default_ttl": timedelta(minutes=15), "max_ttl": timedelta(hours=1)}, 15 * MINUTE, (15, "MINUTES")),
        ({"default_ttl": 0.0015}, 2, (2, "MILLISECONDS")),
        ({"max_ttl": timedelta(minutes=15)}, 15 * MINUTE, (15, "MINUTES")),
        ({"max_ttl": timedelta(days=30)}, 7 * DAY, (7, "DAYS")),
        ({"default_ttl": 3600, "max_ttl": 3600}, 60 * MINUTE, (1, "HOURS")),
    ],
    ids=str,
)
def test_a_session_that_names_no_ttl(
    make_engine: Make, options: dict[str, Any], remaining_ms: int, ttl: tuple[int, str]
) -> None:
    engine = make_engine(**options)
    engine.put_voucher(Voucher(code="A"))
    for session in (
        engine.validate("A", session={"type": "LOCK", "key": "cart"}).session,
        engine.validate_stack(["A"], session={"type": "LOCK", "key": "other"}).session,
    ):
        assert session is not None
        assert (session.ttl, session.ttl_unit) == ttl
        assert remaining_ms - 1000 < session.remaining_ms <= remaining_ms, "a retry is answered a moment later"


@pytest.mark.parametrize(
    ("max_ttl", "within", "beyond"),
    [
        (timedelta(minutes=15), (15, "MINUTES"), (900_001, "MILLISECONDS")),
        (900, (900, "SECONDS"), (15.0000001, "MINUTES")),
        (0.01, (10, "MILLISECONDS"), (1, "DAYS")),
        (None, (3650, "DAYS"), None),
    ],
)
def test_no_session_may_ask_for_more_than_max_ttl(
    make_engine: Make, backend: Backend, max_ttl: Any, within: tuple[int, Any], beyond: tuple[float, Any] | None
) -> None:
    engine = make_engine(max_ttl=max_ttl)
    engine.put_voucher(Voucher(code="A"))
    ttl, unit = within
    assert engine.validate("A", session={"type": "LOCK", "key": "cart", "ttl": ttl, "ttl_unit": unit}).valid
    if beyond is None:
        return
    before = backend.contents()
    session: dict[str, object] = {"type": "LOCK", "key": "other", "ttl": beyond[0], "ttl_unit": beyond[1]}
    for call in (lambda: engine.validate("A", session=session), lambda: engine.validate_stack(["A"], session=session)):
        with pytest.raises(InvalidRequest, match="max_ttl of the engine") as refused:
            call()
        assert refused.value.field == "session.ttl"
    assert backend.contents().keys() <= before.keys()


@pytest.mark.parametrize("field", ["default_ttl", "max_ttl", "receipt_ttl"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "900", True, timedelta(0), timedelta(days=3651)])
def test_a_duration_is_refused_when_the_engine_is_made(field: str, value: Any) -> None:
    options: dict[str, Any] = {field: value}
    with pytest.raises(InvalidRequest) as refused:
        VoucherSessions(fakeredis.FakeRedis(), **options)
    assert refused.value.field == field


def test_a_default_above_the_maximum_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="15 minutes") as refused:
        VoucherSessions(fakeredis.FakeRedis(), default_ttl=901, max_ttl=900)
    assert refused.value.field == "default_ttl"


@pytest.mark.parametrize("value", [599.9, timedelta(minutes=10) - timedelta(milliseconds=1)])
def test_a_receipt_outlives_the_retries_of_its_redemption(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="at least 10 minutes") as refused:
        VoucherSessions(fakeredis.FakeRedis(), receipt_ttl=value)
    assert refused.value.field == "receipt_ttl"
    assert VoucherSessions(fakeredis.FakeRedis(), receipt_ttl=600)
