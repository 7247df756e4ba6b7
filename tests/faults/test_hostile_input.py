"""Any object as any parameter: ``InvalidRequest`` that names the field, before a command is sent, or a correct command.

The verbs and their parameters are found by inspection, so a new one is tested like the others.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults.hostile_objects import HostileValue
from faults.hostile_values import ANYTHING, HOSTILE_VALUES
from faults.recording_clients import ENGINES, Sent, concerns, outcome, recording_client_for, run
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
    "if_exists": "keep",
    "limit": 5,
    "redeemables": [Redeemable(code="A", credits=5)],
    "release": ["a code that left the cart"],
}
KEY: Final = re.compile(rb"vs:\{[^{}]*\}(:.*)?", re.DOTALL)
CALL_ID: Final = re.compile("[A-Za-z0-9]{11}")
# Where the numbers are among the arguments of a script, behind the call id.
NUMBERS: Final = {
    "put_voucher": (slice(1, 4), slice(5, 8)),
    "validate": (slice(1, None),),
    "validate_stack": (slice(1, None),),
    "redeem": (slice(4, None),),
    "redeem_stack": (slice(4, None),),
    "list_sessions": (slice(0, 1),),
}


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
        client: Any = recording_client_for(engine)
        under_test = engine(client)
        seen = outcome(
            partial(lambda under_test, piped: run(under_test, verb, arguments(), piped=piped), under_test, piped)
        )
        if isinstance(seen, InvalidRequest):
            assert client.commands == []
            fields.append(seen.field)
        else:
            assert isinstance(seen, Sent)
            assert_in_order(client.commands, verb)
            fields.append(None)
    return fields


def assert_in_order(commands: list[tuple[Any, ...]], verb: str) -> None:
    """One script call, alone or with the ECHO of its call id that ends a batch.

    Of exact types, since a subclass may encode itself as it likes; numbers as text.
    """
    command, *others = commands
    assert {type(item) for item in command} <= {str, bytes}
    word, script, count = command[0], command[1], int(command[2])
    assert (word, len(script)) == ("EVALSHA", 40) or (word, script[:2]) == ("EVAL", "--")
    assert all(KEY.fullmatch(key) for key in command[3 : 3 + count])
    call_id, *arguments = command[3 + count :]
    assert CALL_ID.fullmatch(call_id)
    assert others == ([("ECHO", call_id)] if word == "EVAL" else [])
    numbers = [number for part in NUMBERS.get(verb, ()) for number in arguments[part]]
    if verb == "put_voucher" and numbers[0] == "-1":  # without limit
        numbers[0] = "0"
    assert all(0 <= int(each) <= MAX_NUMBER for each in numbers if each != "-")


def right(verb: str) -> dict[str, Any]:
    return {name: RIGHT[name] for name in VERBS[verb]}


def test_every_parameter_is_tried() -> None:
    assert {name for names in VERBS.values() for name in names} == set(RIGHT)
    assert set(VERBS) - set(QUEUED) == {"audit", "repair"}
    for verb in VERBS:
        assert set(refused_or_sent(verb, partial(right, verb))) == {None}


@pytest.mark.parametrize(("verb", "name"), PARAMETERS)
def test_each_hostile_value_as_each_parameter(verb: str, name: str) -> None:
    for hostile in HOSTILE_VALUES:
        fields = refused_or_sent(verb, partial(lambda hostile: right(verb) | {name: hostile.make()}, hostile))
        assert concerns(fields[0], name), hostile
        assert len(set(fields)) == 1, hostile


@pytest.mark.parametrize(("verb", "name"), PARAMETERS)
@settings(max_examples=25, deadline=None)
@given(hostile=ANYTHING)
def test_random_hostile_values_as_one_parameter(verb: str, name: str, hostile: HostileValue) -> None:
    fields = refused_or_sent(verb, lambda: right(verb) | {name: hostile.make()})
    assert concerns(fields[0], name)
    assert len(set(fields)) == 1


MAYBE_ANYTHING: Final = st.one_of(st.none(), ANYTHING)


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_hostile_values_as_all_parameters(verb: str, data: st.DataObject) -> None:
    drawn = {name: data.draw(MAYBE_ANYTHING, name) for name in VERBS[verb]}
    fields = refused_or_sent(
        verb, lambda: right(verb) | {name: hostile.make() for name, hostile in drawn.items() if hostile}
    )
    assert all(
        field is None or any(concerns(field, name) for name, hostile in drawn.items() if hostile) for field in fields
    )
