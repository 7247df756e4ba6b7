"""What type checkers accept of the public interface, and what they must refuse. It is checked, not run.

``tox -e types`` runs mypy --strict and pyright over it. Both report a ``type: ignore`` that suppresses nothing, so each
one is a test: the line must be an error to both checkers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

from voucher_sessions import (
    AsyncPipeline,
    AsyncVoucherSessions,
    Pipeline,
    Redeemable,
    Redemption,
    Session,
    SessionFields,
    SessionType,
    TtlUnit,
    Validation,
    VoucherSessions,
    __version__,
)


def sessions() -> None:
    """The constructor takes an enum's value; the field is the enum."""
    session = Session(type="LOCK", key="cart", ttl=30, ttl_unit="MINUTES")
    assert_type(session.type, SessionType | None)
    assert_type(session.ttl, int | float | None)
    assert_type(session.ttl_unit, TtlUnit | None)
    Session(type=SessionType.LOCK, ttl=1.5, ttl_unit=TtlUnit.DAYS)
    Session()
    Session(type="HOLD")  # type: ignore[arg-type]  # a test, which fails unless mypy and pyright report this line: "HOLD" is no type of session
    Session(type="LOCK", ttl=5, ttl_unit="MINUTE")  # type: ignore[arg-type]  # a test, which fails unless mypy and pyright report this line: "MINUTE" is no unit, "MINUTES" is
    Session(type="LOCK", ttl="5", ttl_unit="DAYS")  # type: ignore[arg-type]  # a test, which fails unless mypy and pyright report this line: a TTL is a number, not a text
    Session(typ="LOCK")  # type: ignore[call-arg]  # a test, which fails unless mypy and pyright report this line: no field is called "typ"


def mappings_written_in_the_call(engine: VoucherSessions) -> None:
    """A misspelt name and a value of a wrong type are found."""
    engine.validate("A", session={"type": "LOCK"})
    engine.validate("A", session={"type": "LOCK", "key": "cart", "ttl": 7, "ttl_unit": "DAYS"})
    engine.validate("A", session={"type": SessionType.LOCK, "key": None, "ttl": 0.5, "ttl_unit": TtlUnit.HOURS})
    engine.redeem("A", session={"key": "cart"})
    engine.validate("A", session={"typ": "LOCK"})  # type: ignore[dict-item]  # a test, which fails unless mypy and pyright report this line: no field is called "typ"
    engine.validate("A", session={"type": "LOCK", "tll": 7})  # type: ignore[dict-item]  # a test, which fails unless mypy and pyright report this line: no field is called "tll"
    engine.validate("A", session={"type": "HOLD"})  # type: ignore[dict-item]  # a test, which fails unless mypy and pyright report this line: "HOLD" is no type of session
    engine.validate("A", session={"type": "LOCK", "ttl": "7", "ttl_unit": "DAYS"})  # type: ignore[dict-item]  # a test, which fails unless mypy and pyright report this line: a TTL is a number, not a text
    engine.redeem("A", session={"kye": "cart"})  # type: ignore[dict-item]  # a test, which fails unless mypy and pyright report this line: no field is called "kye"
    engine.validate_stack([Redeemable(code="A")], session={"type": "LOCK", "ttlunit": "DAYS"})  # type: ignore[dict-item]  # a test, which fails unless mypy and pyright report this line: no field is called "ttlunit"
    engine.pipeline().validate("A", session={"typ": "LOCK"})  # type: ignore[dict-item]  # a test, which fails unless mypy and pyright report this line: no field is called "typ"


def mappings_of_known_type(engine: VoucherSessions) -> None:
    """With ``SessionFields`` a mapping is checked where it is made."""
    session: SessionFields = {"type": "LOCK", "key": "cart"}
    engine.validate("A", session=session)
    wrong: SessionFields = {"typ": "LOCK"}  # type: ignore[typeddict-unknown-key]  # a test, which fails unless mypy and pyright report this line: no field is called "typ"
    engine.validate("A", session=wrong)


def mappings_from_a_request_body(
    engine: VoucherSessions, json: Any, body: dict[str, Any], other: dict[str, object], mapping: Mapping[str, object]
) -> None:
    """What nobody can know before the call is accepted. A mapping that is no dict has to become one first."""
    engine.validate("A", session=json)
    engine.validate("A", session=body)
    engine.validate("A", session=body["session"])
    engine.validate("A", session=other)
    engine.redeem("A", session=body)
    fields = dict(mapping)
    engine.validate("A", session=fields)
    extended = {"type": "LOCK", **body}
    engine.validate("A", session=extended)
    engine.validate("A", session=mapping)  # type: ignore[arg-type]  # a test, which fails unless mypy and pyright report this line: a mapping that is no dict has to become one first
    engine.validate("A", session="cart")  # type: ignore[arg-type]  # a test, which fails unless mypy and pyright report this line: validate takes a session, not only its key


def results(engine: VoucherSessions) -> None:
    assert_type(engine.validate("A"), Validation)
    assert_type(engine.redeem("A", session="cart"), Redemption)
    assert_type(engine.pipeline().validate("A").redeem("A"), Pipeline)
    assert_type(__version__, str)
    engine.redeem("A", if_session_missing="ignore")  # type: ignore[arg-type]  # a test, which fails unless mypy and pyright report this line: the choices are "raise" and "redeem"
    engine.validate("A", 5)  # type: ignore[call-arg]  # a test, which fails unless mypy and pyright report this line: amounts are named
    engine.validate("A", credits=0.5)  # type: ignore[arg-type]  # a test, which fails unless mypy and pyright report this line: amounts are whole numbers


async def asyncio_results(engine: AsyncVoucherSessions) -> None:
    assert_type(await engine.validate("A", session={"type": "LOCK"}), Validation)
    assert_type(engine.pipeline().validate("A"), AsyncPipeline)
    await engine.validate("A", session={"typ": "LOCK"})  # type: ignore[dict-item]  # a test, which fails unless mypy and pyright report this line: no field is called "typ"
