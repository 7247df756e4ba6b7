"""The request models as a web framework sees them: as fields of its own models, and as JSON Schema."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from voucher_sessions import InvalidRequest, Redeemable, Session, SessionFields, SessionType, TtlUnit, Voucher


class Body(pydantic.BaseModel):
    session: Session | None = None
    stack: list[Redeemable] = []
    voucher: Voucher | None = None


TOGETHER = "must be given together"
WRONG_SESSIONS: list[tuple[str, dict[str, Any], str]] = [
    ("ttl", {"ttl": 7}, TOGETHER),
    ("ttl", {"ttl_unit": "DAYS"}, TOGETHER),
    ("ttl", {"ttl": "7", "ttl_unit": "DAYS"}, "must be a number"),
    ("ttl", {"ttl": True, "ttl_unit": "DAYS"}, "must be a number"),
    ("ttl", {"ttl": 0, "ttl_unit": "DAYS"}, "must be above 0"),
    ("ttl", {"ttl": 3651, "ttl_unit": "DAYS"}, "must be at most 3,650 days"),
    ("ttl_unit", {"ttl": 7, "ttl_unit": "WEEKS"}, "Input should be"),
    ("key", {"key": " "}, "pattern"),
    ("type", {"type": "HOLD"}, "Input should be"),
    ("typ", {"typ": "LOCK"}, "not permitted"),
]


def errors(model: type[pydantic.BaseModel], value: object) -> list[tuple[tuple[int | str, ...], str]]:
    with pytest.raises(pydantic.ValidationError) as refused:
        model.model_validate(value)
    return [(error["loc"], error["msg"]) for error in refused.value.errors()]


@pytest.mark.parametrize(("field", "session", "problem"), WRONG_SESSIONS)
def test_a_wrong_field_of_a_session_is_reported_at_that_field(
    field: str, session: dict[str, Any], problem: str
) -> None:
    [(loc, message)] = errors(Session, session)
    assert loc == (field,)
    assert problem in message
    assert errors(Body, {"session": session}) == [(("session", field), message)]
    with pytest.raises(InvalidRequest) as refused:
        Session(**session)
    assert refused.value.field == field


def test_other_models_report_at_the_field_too() -> None:
    body = {"voucher": {"code": "A", "credits": -1}, "stack": [{"code": "A"}, {"code": ""}]}
    assert [loc for loc, _ in errors(Body, body)] == [("stack", 1, "code"), ("voucher", "credits")]


def test_a_session_inside_a_host_is_what_the_constructor_makes() -> None:
    body = Body.model_validate_json('{"session": {"type": "LOCK", "key": "k", "ttl": 1.5, "ttl_unit": "MINUTES"}}')
    assert body.session == Session(type="LOCK", key="k", ttl=1.5, ttl_unit="MINUTES")
    assert type(body.session) is Session
    assert body.session.type is SessionType.LOCK
    assert body.session.ttl_unit is TtlUnit.MINUTES
    assert body.session.model_dump(mode="json") == {"type": "LOCK", "key": "k", "ttl": 1.5, "ttl_unit": "MINUTES"}


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_the_json_schema_says_what_a_ttl_is(mode: Any) -> None:
    ttl = Session.model_json_schema(mode=mode)["properties"]["ttl"]
    assert ttl["anyOf"] == [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]


class BodyWithFields(pydantic.BaseModel):
    session: SessionFields


def test_the_fields_of_a_session_as_a_dict_have_a_schema() -> None:
    body = BodyWithFields.model_validate({"session": {"type": "LOCK", "ttl": 5, "ttl_unit": "MINUTES"}})
    assert body.session == {"type": "LOCK", "ttl": 5, "ttl_unit": "MINUTES"}
    assert "ttl_unit" in BodyWithFields.model_json_schema()["$defs"]["SessionFields"]["properties"]
    assert errors(BodyWithFields, {"session": {"type": "HOLD"}})
