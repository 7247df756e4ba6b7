"""Lost replies: whatever a network does to a call, its effect is there once, and its caller learns what it was.

Every verb in all its ways, from callers of every kind, through a proxy that loses replies (and calls). Beside the
servers stands a model of the books, which says what the first call is told, what it leaves behind, and what its caller
is told who repeats it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from faults.kinds_of_caller import ACTS, Act, act, lock
from faults.lost_reply_trials import (
    BRIEF,
    PATIENT,
    SILENT,
    Place,
    answered_in_the_end,
    everywhere,
    load_scripts,
    never_answered,
    overtaken,
)
from faults.proxy import FAULTS, Fault
from voucher_sessions import Voucher


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


@pytest.mark.parametrize("name", ACTS)
def test_lost_with_the_script_cache_flushed(name: str, places: list[Place]) -> None:
    """Between a script's run and its repetition, where the client repeats it; else before its run."""
    made = ACTS[name]
    for place in places:  # one after the other: a server's cache is everybody's
        with place.begun.server.client() as admin:
            if place.caller.retries:
                answered_in_the_end(made, place, ["close", None, "reset"], PATIENT, meanwhile=admin.script_flush)
            else:
                admin.script_flush()
                never_answered(made, place, [None, "close"], PATIENT, ran=True)
                admin.script_flush()
                never_answered(made, place, ["close"], PATIENT, ran=False)
            load_scripts(admin)


# What others do between a call's run and its repetition by the client stands: the repetition is the same call, and has
# had its effect.
OVERTAKEN: dict[str, tuple[str, Sequence[Act]]] = {
    "validated, then released": ("validate with an own key", [act("release", "A", "mine")]),
    "validated, then redeemed": ("validate with an own key", [act("redeem", "A", session="mine")]),
    "validated, then overridden": (
        "validate with an own key",
        [act("validate", "A", credits=9, session=lock("mine"))],
    ),
    "validated, then the voucher deleted": ("validate with an own key", [act("delete_voucher", "A")]),
    "validated, then deleted and put again": (
        "validate with an own key",
        [act("delete_voucher", "A"), act("put_voucher", Voucher(code="A", credits=50))],
    ),
    "validated, then the limits lowered": (
        "validate with an own key",
        [act("put_voucher", Voucher(code="A", quantity=1, credits=1))],
    ),
    "validated, released, and validated again": (
        "validate with an own key",
        [act("release", "A", "mine"), act("validate", "A", credits=9, session=lock("mine"))],
    ),
    "overridden, then released": ("validate overrides", [act("release", "A", "k")]),
    "overridden, then redeemed": ("validate overrides", [act("redeem", "A", session="k")]),
    "released, then validated again": ("release", [act("validate", "A", credits=1, session=lock("k"))]),
    "released, then the voucher deleted": ("release", [act("delete_voucher", "A")]),
    "released, then deleted and put again": (
        "release",
        [act("delete_voucher", "A"), act("put_voucher", Voucher(code="A", credits=50))],
    ),
    "a stack released, then one of it deleted": ("release_stack", [act("delete_voucher", "B")]),
    "a stack validated, then one of it deleted": (
        "validate_stack",
        [act("release", "A", "mine"), act("delete_voucher", "A")],
    ),
    "deleted, then put again": ("delete_voucher", [act("put_voucher", Voucher(code="A", credits=50))]),
    "put, then deleted": ("put_voucher, a new one", [act("delete_voucher", "C")]),
    "put, then put with other limits": ("put_voucher, a new one", [act("put_voucher", Voucher(code="C", credits=8))]),
    "limits changed, and changed again": (
        "put_voucher, new limits",
        [act("put_voucher", Voucher(code="A", credits=90))],
    ),
    "limits changed, then redeemed": ("put_voucher, new limits", [act("redeem", "A", session="k")]),
    "figures brought, then redeemed": ("put_voucher with used", [act("redeem", "A", session="k", credits=0)]),
    "figures brought, then put with other limits": (
        "put_voucher with used",
        [act("put_voucher", Voucher(code="A", credits=90)), act("redeem", "A", credits=2)],
    ),
    "figures brought, then rolled back": ("put_voucher with used", [act("rollback", "A", "paid")]),
    "figures brought, then deleted": ("put_voucher with used", [act("delete_voucher", "A")]),
    "redeemed, then rolled back": ("redeem with an id", [act("rollback", "A", "order")]),
    "redeemed, then deleted": ("redeem with an id", [act("delete_voucher", "A")]),
    "redeemed, then the session validated anew": (
        "redeem a session with an id",
        [act("validate", "A", credits=8, session=lock("k"))],
    ),
    "rolled back, then redeemed": ("rollback", [act("redeem", "A", credits=2)]),
    "rolled back, then deleted and put again": (
        "rollback",
        [act("delete_voucher", "A"), act("put_voucher", Voucher(code="A", credits=50)), act("redeem", "A", credits=30)],
    ),
    "a stack validated, then released": ("validate_stack", [act("release_stack", ["A", "B"], "mine")]),
    "a stack validated, then one of it redeemed": ("validate_stack", [act("redeem", "A", session="mine")]),
    "a stack validated and one left, which is validated again": (
        "validate_stack with release",
        [act("validate", "B", credits=2, session=lock("k"))],
    ),
    "a stack redeemed, then one of it validated again": (
        "redeem_stack of a session",
        [act("validate", "B", credits=2, session=lock("k"))],
    ),
    "a stack released, then one of it validated again": (
        "release_stack",
        [act("validate", "B", credits=2, session=lock("k"))],
    ),
    "a stack rolled back, then redeemed": ("rollback_stack", [act("redeem", "A", credits=2)]),
}


@pytest.mark.parametrize("fault", ["close", "swallow", "late"])
@pytest.mark.parametrize("name", OVERTAKEN)
def test_overtaken(name: str, fault: Fault, places: list[Place]) -> None:
    """Before the client has repeated it; with ``late``, when the repetition was answered, before the first copy came."""
    made, others = OVERTAKEN[name]
    timeout = BRIEF if fault in SILENT else PATIENT
    retrying = [place for place in places if place.caller.retries]
    everywhere(retrying, lambda place: overtaken(ACTS[made], place, fault, timeout, others))
