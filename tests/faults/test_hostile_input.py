"""Whatever is handed in: ``InvalidRequest`` that names the field, before anything is sent, or a call in good order.

The verbs and their parameters are found by inspection, so that a new one is tried like the others.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults.hostile_objects import Made
from faults.hostile_values import ANYTHING, GALLERY
from faults.silent_clients import ENGINES, Sent, of, outcome, recorder_of, run
from voucher_sessions import InvalidRequest, Redeemable, Voucher
from voucher_sessions.models import MAX_NUMBER
from voucher_sessions.pipelines import AsyncPipeline, Pipeline

# What each parameter gets while another one is tried. Whoever adds a parameter adds what is right for it.
RIGHT: Final[dict[str, Any]] = {
    "code": "A",
    "codes": ["A", "B"],
    "voucher": Voucher(code="A", credits=5),
    "used": None,
    "credits": 5,
    "points": 5,
    "session": {"type": "LOCK", "key": "cart"},
    "session_key": "cart",
    "redemption_id": "order",
    "if_session_missing": "raise",
    "limit": 5,
    "redeemables": [Redeemable(code="A", credits=5)],
    "release": ["a code that left the cart"],
}
KEY: Final = re.compile(rb"vs:\{[^{}]*\}(:.*)?", re.DOTALL)


def verbs(*kinds: type[Any]) -> dict[str, list[str]]:
    """Every public method that takes something, with its parameters."""
    found = {}
    for kind in kinds:
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            parameters = list(inspect.signature(method).parameters)[1:]
            if not name.startswith("_") and name != "execute" and parameters:
                found[name] = parameters
    return found


VERBS: Final = verbs(*ENGINES)
QUEUED: Final = verbs(Pipeline, AsyncPipeline)
PARAMETERS: Final = [(verb, name) for verb, names in VERBS.items() for name in names]


def refused_or_sent(verb: str, arguments: Callable[[], dict[str, Any]]) -> list[str | None]:
    """For each engine, and its pipeline, the field of the refusal, or None for a command in good order."""
    fields: list[str | None] = []
    for engine, piped in product(ENGINES, (False, True) if verb in QUEUED else (False,)):
        client: Any = recorder_of(engine)
        made = engine(client)
        seen = outcome(lambda made=made, piped=piped: run(made, verb, arguments(), piped=piped))  # type: ignore[misc]  # of this object
        if isinstance(seen, InvalidRequest):
            assert client.commands == []
            fields.append(seen.field)
        else:
            assert isinstance(seen, Sent)
            assert_in_order(client.commands, verb)
            fields.append(None)
    return fields


def assert_in_order(commands: list[tuple[Any, ...]], verb: str) -> None:
    """One script call of exact types: a subclass may encode itself as it likes."""
    (command,) = commands
    assert {type(item) for item in command} <= {str, bytes, int}
    word, script, count = command[:3]
    assert (word, len(script)) == ("EVALSHA", 40) or (word, script[:2]) == ("EVAL", "--")
    assert all(KEY.fullmatch(key) for key in command[3 : 3 + count])
    arguments = list(command[3 + count :])
    if verb == "put_voucher" and arguments[1] == -1:  # without limit
        arguments[1] = 0
    assert all(0 <= each <= MAX_NUMBER for each in arguments if isinstance(each, int))


def right(verb: str) -> dict[str, Any]:
    return {name: RIGHT[name] for name in VERBS[verb]}


def test_every_parameter_is_tried() -> None:
    assert {name for names in VERBS.values() for name in names} == set(RIGHT)
    assert set(VERBS) - set(QUEUED) == {"audit", "repair"}
    for verb in VERBS:
        assert set(refused_or_sent(verb, lambda verb=verb: right(verb))) == {None}  # type: ignore[misc]  # of this verb


@pytest.mark.parametrize(("verb", "name"), PARAMETERS)
def test_the_gallery_of_hostile_objects(verb: str, name: str) -> None:
    for made in GALLERY:
        fields = refused_or_sent(verb, lambda made=made: right(verb) | {name: made.make()})  # type: ignore[misc]  # of this object
        assert of(fields[0], name), made
        assert len(set(fields)) == 1, made


@pytest.mark.parametrize(("verb", "name"), PARAMETERS)
@settings(max_examples=25, deadline=None)
@given(made=ANYTHING)
def test_any_object(verb: str, name: str, made: Made) -> None:
    fields = refused_or_sent(verb, lambda: right(verb) | {name: made.make()})
    assert of(fields[0], name)
    assert len(set(fields)) == 1


MAYBE_ANYTHING: Final = st.one_of(st.none(), ANYTHING)


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_objects_in_all_places_at_once(verb: str, data: st.DataObject) -> None:
    drawn = {name: data.draw(MAYBE_ANYTHING, name) for name in VERBS[verb]}
    fields = refused_or_sent(verb, lambda: right(verb) | {name: made.make() for name, made in drawn.items() if made})
    assert all(field is None or any(of(field, name) for name, made in drawn.items() if made) for field in fields)
