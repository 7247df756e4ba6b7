"""Lost replies: whatever a network does to a call, its effect is there once, and its caller learns what it was.

Every verb in all its ways, from callers of every kind, through a proxy that loses replies (and calls). Beside the
servers stands a model of the books, which says what the first call is told, what it leaves behind, and what its caller
is told who repeats it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from servers import Server

from faults.callers import ACTS
from faults.proxy import FAULTS, Fault, Proxy
from faults.trials import (
    BRIEF,
    CALLERS,
    PATIENT,
    SILENT,
    Begun,
    Place,
    answered_in_the_end,
    begin,
    everywhere,
    never_answered,
)


@pytest.fixture(scope="module")
def servers(real_servers: list[Server]) -> list[Begun]:
    return [begin(server) for server in real_servers]


@pytest.fixture
def places(
    request: pytest.FixtureRequest, servers: list[Begun], proxy_of: Callable[[Server, int], Proxy]
) -> list[Place]:
    """One for each kind of caller; from fault to fault they go to another server."""
    turn = request.node.callspec.indices.get("fault", 0)
    found = []
    for at, caller in enumerate(CALLERS):
        begun = servers[(turn + at + at // 2 + at // 4) % len(servers)]
        found.append(Place(caller, begun, proxy_of(begun.server, at)))
    return found


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ACTS)
def test_lost_once(name: str, fault: Fault, places: list[Place]) -> None:
    def run(place: Place) -> None:
        timeout = BRIEF if fault in SILENT else PATIENT
        if place.caller.retries:
            answered_in_the_end(ACTS[name], place, [fault], timeout)
        else:
            never_answered(ACTS[name], place, [fault], timeout, ran=fault != "lost")

    everywhere(places, run)


@pytest.mark.parametrize("fault", ["close", "swallow"])
@pytest.mark.parametrize("name", ACTS)
def test_lost_as_often_as_the_client_tries(name: str, fault: Fault, places: list[Place]) -> None:
    def run(place: Place) -> None:
        timeout = BRIEF if fault in SILENT else PATIENT
        never_answered(ACTS[name], place, itertools.repeat(fault), timeout, ran=True)

    retrying = [place for place in places if place.caller.retries]
    everywhere((place._replace(caller=place.caller._replace(retries=3)) for place in retrying), run)
