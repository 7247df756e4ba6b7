"""Any object as an option of an engine or a field of a model: ``InvalidRequest`` that names it, or it is accepted."""

from __future__ import annotations

import inspect
from datetime import datetime
from enum import StrEnum
from functools import partial
from itertools import chain
from typing import Any, Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from faults.hostile_objects import HostileValue
from faults.hostile_values import ANYTHING, HOSTILE_VALUES
from faults.recording_clients import ENGINES, Sent, concerns, outcome, recording_client_for, run
from faults.test_hostile_input import right
from voucher_sessions import AsyncVoucherSessions, InvalidRequest
from voucher_sessions._transport.client_kinds import check_client
from voucher_sessions.models import Request

MODELS: Final = Request.__subclasses__()
# What is right for the fields of the request models, where they must have something.
FIELDS: Final[dict[str, dict[str, Any]]] = {
    "Voucher": {"code": "A"},
    "Used": {},
    "Session": {"type": "LOCK", "key": "cart", "ttl": 5, "ttl_unit": "DAYS"},
    "Redeemable": {"code": "A"},
    "Durability": {},
    "RedemptionRow": {"code": "A", "id": "order", "credits": 5},
}
# What the fields of a checked model can have: an instance of a subclass may behave as it likes.
EXACT_TYPES: Final = {str, int, float, bool, datetime}
OPTIONS: Final = ("prefix", "partition", "durability", "receipt_ttl", "default_ttl", "max_ttl", "loader", "on_call")


def test_every_option_is_tried() -> None:
    for engine in ENGINES:
        assert [*inspect.signature(engine).parameters] == ["client", *OPTIONS]
        assert [*inspect.signature(engine.from_url).parameters] == ["url", *OPTIONS, "client_options"]


def construct(engine: type[Any], field: str, value: Any) -> None:
    """Refused, or an engine whose first call goes out in good order, or is refused for what a partition returns."""
    client = recording_client_for(engine)
    seen = outcome(lambda: run(engine(**{"client": client, field: value}), "redeem", right("redeem")))
    if isinstance(seen, InvalidRequest):
        assert client.commands == []
        assert concerns(seen.field, field)
    else:
        assert isinstance(seen, Sent)
        assert {type(item) for command in client.commands for item in command} <= {str, bytes}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("field", OPTIONS)
def test_each_hostile_value_as_an_option(engine: type[Any], field: str) -> None:
    for hostile in HOSTILE_VALUES:
        if field != "partition" or not fails(hostile.make()):
            construct(engine, field, hostile.make())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("field", OPTIONS)
@settings(max_examples=60, deadline=None)
@given(hostile=ANYTHING)
def test_random_hostile_values_as_an_option(engine: type[Any], field: str, hostile: HostileValue) -> None:
    assume(field != "partition" or not fails(hostile.make()))
    construct(engine, field, hostile.make())


def fails(partition: Any) -> bool:
    """Whether it is a function that fails by itself; what the host's own code raises, the host shall see."""
    if callable(partition):
        try:
            partition("A")
        except Exception:
            return True
    return False


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_in_the_hosts_partition_is_raised_unchanged(engine: type[Any]) -> None:
    client = recording_client_for(engine)
    with pytest.raises(ZeroDivisionError):
        run(engine(client, partition=lambda _: 1 // 0), "redeem", right("redeem"))
    assert client.commands == []


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=100, deadline=None)
@given(hostile=ANYTHING)
def test_a_partition_may_return_anything(engine: type[Any], hostile: HostileValue) -> None:
    construct(engine, "partition", lambda _: hostile.make())


@pytest.mark.parametrize("engine", ENGINES)
def test_each_hostile_value_as_a_client(engine: type[Any]) -> None:
    """What is no client is refused; a mock may be one."""
    for hostile in HOSTILE_VALUES:
        seen = outcome(partial(lambda hostile: engine(hostile.make()), hostile))
        assert "mock" in hostile.text or seen.field == "client", hostile


URLS: Final = st.one_of(
    ANYTHING,
    st.builds(
        lambda scheme, rest: HostileValue(repr(scheme + rest), lambda: scheme + rest),
        st.sampled_from(
            ["redis://", "rediss://", "unix://", "redis+sentinel://", "memory://", "h", "redis://h?", "://"]
        ),
        st.one_of(
            st.text(st.sampled_from("h1:,/@?=&%[]#. \0{}\ud800é-"), max_size=12),
            st.from_regex(r"h(:\d{0,6})?(/\w{0,3})?(\?[a-z_]{1,12}=[a-z0-9.-]{0,6})?", fullmatch=True),
            st.sampled_from(
                ["h/x?sentinels=4", "h/x?sentinel_kwargs=4", "max_connections=-5", "h?connection_class=5", "cache=5"]
            ),
        ),
    ),
)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150, deadline=None)
@given(hostile=URLS)
def test_random_urls(engine: type[Any], hostile: HostileValue) -> None:
    """Nothing connects yet; a cluster would, and is left out."""
    seen = outcome(lambda: engine.from_url(hostile.make()))
    if isinstance(seen, InvalidRequest):
        assert seen.field == "url"
    else:
        assert check_client(seen.client, asynchronous=engine is AsyncVoucherSessions) is seen.client


# --- Request models ------------------------------------------------------------------------------------------------


def make_model(model: type[Any], data: dict[str, Any], *, tried: tuple[str, ...]) -> None:
    """Refused by name, or a model of exact types that its own checks find right."""
    seen = outcome(lambda: model(**data))
    if isinstance(seen, InvalidRequest):
        assert any(concerns(seen.field, name) for name in tried)
        return
    for value in dict(seen).values():
        assert value is None or isinstance(value, StrEnum) or type(value) in EXACT_TYPES
    assert model.model_validate(seen.model_dump()) == seen


def test_every_model_is_tried() -> None:
    assert {model.__name__ for model in MODELS} == set(FIELDS)


@pytest.mark.parametrize("model", MODELS)
def test_each_hostile_value_as_a_field(model: type[Any]) -> None:
    for name in model.model_fields:
        for hostile in HOSTILE_VALUES:
            make_model(model, FIELDS[model.__name__] | {name: hostile.make()}, tried=(name, "ttl"))


NAMES: Final = st.one_of(
    st.sampled_from(sorted({*chain(*(model.model_fields for model in MODELS))})), st.text(max_size=5)
)
DATA: Final = st.dictionaries(NAMES, ANYTHING, min_size=1, max_size=3)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_random_hostile_values_as_fields(model: type[Any], data: st.DataObject) -> None:
    drawn = data.draw(DATA)
    make_model(
        model,
        FIELDS[model.__name__] | {name: hostile.make() for name, hostile in drawn.items()},
        tried=(*drawn, "ttl", model.__name__),
    )
