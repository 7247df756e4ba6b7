"""Lost replies: whatever a network does to a call, it takes effect once, and its caller can find out what happened.

Every verb in all its variants, with every kind of client, through a proxy that loses replies (and calls). A model
predicts the result of the first call, what it stores, and the result of the repeated call.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from faults.lost_reply_trials import (
    LONG_TIMEOUT,
    SHORT_TIMEOUT,
    SILENT,
    Route,
    answered_in_the_end,
    everywhere,
    load_scripts,
    never_answered,
    overtaken,
)
from faults.proxy import FAULTS, Fault
from faults.verb_calls import VERB_CALLS, VerbCall, lock, verb_call
from voucher_sessions import Voucher


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", VERB_CALLS)
def test_one_lost_reply(name: str, fault: Fault, routes: list[Route]) -> None:
    def run(route: Route) -> None:
        timeout = SHORT_TIMEOUT if fault in SILENT else LONG_TIMEOUT
        if route.client_kind.retries:
            answered_in_the_end(VERB_CALLS[name], route, [fault], timeout)
        else:
            never_answered(VERB_CALLS[name], route, [fault], timeout, ran=fault != "lost")

    everywhere(routes, run)


@pytest.mark.parametrize("fault", ["close", "swallow"])
@pytest.mark.parametrize("name", VERB_CALLS)
def test_a_reply_lost_at_every_try(name: str, fault: Fault, routes: list[Route]) -> None:
    def run(route: Route) -> None:
        timeout = SHORT_TIMEOUT if fault in SILENT else LONG_TIMEOUT
        never_answered(VERB_CALLS[name], route, itertools.repeat(fault), timeout, ran=True)

    retrying = [route for route in routes if route.client_kind.retries]
    everywhere((route._replace(client_kind=route.client_kind._replace(retries=3)) for route in retrying), run)


@pytest.mark.parametrize("name", VERB_CALLS)
def test_a_lost_reply_and_a_flushed_script_cache(name: str, routes: list[Route]) -> None:
    """Between a script's run and its repetition, where the client repeats it; else before its run."""
    call = VERB_CALLS[name]
    for route in routes:  # one after the other: a server's cache is everybody's
        with route.prepared.server.client() as admin:
            if route.client_kind.retries:
                answered_in_the_end(call, route, ["close", None, "reset"], LONG_TIMEOUT, meanwhile=admin.script_flush)
            else:
                admin.script_flush()
                never_answered(call, route, [None, "close"], LONG_TIMEOUT, ran=True)
                admin.script_flush()
                never_answered(call, route, ["close"], LONG_TIMEOUT, ran=False)
            load_scripts(admin)


# What others do between a call's run and its repetition by the client stands: the repetition is the same call, and has
# had its effect.
OVERTAKEN: dict[str, tuple[str, Sequence[VerbCall]]] = {
    "validated, then released": ("validate with an own key", [verb_call("release", "A", "mine")]),
    "validated, then redeemed": ("validate with an own key", [verb_call("redeem", "A", session="mine")]),
    "validated, then overridden": (
        "validate with an own key",
        [verb_call("validate", "A", credits=9, session=lock("mine"))],
    ),
    "validated, then the voucher deleted": ("validate with an own key", [verb_call("delete_voucher", "A")]),
    "validated, then deleted and put again": (
        "validate with an own key",
        [verb_call("delete_voucher", "A"), verb_call("put_voucher", Voucher(code="A", credits=50))],
    ),
    "validated, then the limits lowered": (
        "validate with an own key",
        [verb_call("put_voucher", Voucher(code="A", quantity=1, credits=1))],
    ),
    "validated, released, and validated again": (
        "validate with an own key",
        [verb_call("release", "A", "mine"), verb_call("validate", "A", credits=9, session=lock("mine"))],
    ),
    "overridden, then released": ("validate overrides", [verb_call("release", "A", "k")]),
    "overridden, then redeemed": ("validate overrides", [verb_call("redeem", "A", session="k")]),
    "released, then validated again": ("release", [verb_call("validate", "A", credits=1, session=lock("k"))]),
    "released, then the voucher deleted": ("release", [verb_call("delete_voucher", "A")]),
    "released, then deleted and put again": (
        "release",
        [verb_call("delete_voucher", "A"), verb_call("put_voucher", Voucher(code="A", credits=50))],
    ),
    "a stack released, then one of it deleted": ("release_stack", [verb_call("delete_voucher", "B")]),
    "a stack validated, then one of it deleted": (
        "validate_stack",
        [verb_call("release", "A", "mine"), verb_call("delete_voucher", "A")],
    ),
    "deleted, then put again": ("delete_voucher", [verb_call("put_voucher", Voucher(code="A", credits=50))]),
    "put, then deleted": ("put_voucher, a new one", [verb_call("delete_voucher", "C")]),
    "put, then put with other limits": (
        "put_voucher, a new one",
        [verb_call("put_voucher", Voucher(code="C", credits=8))],
    ),
    "limits changed, and changed again": (
        "put_voucher, new limits",
        [verb_call("put_voucher", Voucher(code="A", credits=90))],
    ),
    "limits changed, then redeemed": ("put_voucher, new limits", [verb_call("redeem", "A", session="k")]),
    "figures brought, then redeemed": ("put_voucher with used", [verb_call("redeem", "A", session="k", credits=0)]),
    "figures brought, then put with other limits": (
        "put_voucher with used",
        [verb_call("put_voucher", Voucher(code="A", credits=90)), verb_call("redeem", "A", credits=2)],
    ),
    "figures brought, then rolled back": ("put_voucher with used", [verb_call("rollback", "A", "paid")]),
    "figures brought, then deleted": ("put_voucher with used", [verb_call("delete_voucher", "A")]),
    "redeemed, then rolled back": ("redeem with an id", [verb_call("rollback", "A", "order")]),
    "redeemed, then deleted": ("redeem with an id", [verb_call("delete_voucher", "A")]),
    "redeemed, then the session validated anew": (
        "redeem a session with an id",
        [verb_call("validate", "A", credits=8, session=lock("k"))],
    ),
    "rolled back, then redeemed": ("rollback", [verb_call("redeem", "A", credits=2)]),
    "rolled back, then deleted and put again": (
        "rollback",
        [
            verb_call("delete_voucher", "A"),
            verb_call("put_voucher", Voucher(code="A", credits=50)),
            verb_call("redeem", "A", credits=30),
        ],
    ),
    "a stack validated, then released": ("validate_stack", [verb_call("release_stack", ["A", "B"], "mine")]),
    "a stack validated, then one of it redeemed": ("validate_stack", [verb_call("redeem", "A", session="mine")]),
    "a stack validated and one left, which is validated again": (
        "validate_stack with release",
        [verb_call("validate", "B", credits=2, session=lock("k"))],
    ),
    "a stack redeemed, then one of it validated again": (
        "redeem_stack of a session",
        [verb_call("validate", "B", credits=2, session=lock("k"))],
    ),
    "a stack released, then one of it validated again": (
        "release_stack",
        [verb_call("validate", "B", credits=2, session=lock("k"))],
    ),
    "a part rolled back, then the rest": (
        "rollback of a part with an id",
        [verb_call("rollback", "A", "paid"), verb_call("rollback", "A", "paid", credits=1, rollback_id="late")],
    ),
    "a part rolled back, then another": (
        "rollback of a part with an id",
        [verb_call("rollback", "A", "paid", credits=2, rollback_id="later")],
    ),
    "the rest rolled back, then a part refused": (
        "rollback",
        [verb_call("rollback", "A", "paid", credits=1, rollback_id="late")],
    ),
    "a part rolled back, then deleted and put again": (
        "rollback of a part with an id",
        [
            verb_call("delete_voucher", "A"),
            verb_call("put_voucher", Voucher(code="A", credits=50)),
            verb_call("redeem", "A", credits=30),
        ],
    ),
    "adjusted, then adjusted again": ("adjust with an id", [verb_call("adjust", "A", credits=7, adjustment_id="more")]),
    "adjusted, then put with other limits": (
        "adjust with an id",
        [verb_call("put_voucher", Voucher(code="A", credits=500))],
    ),
    "adjusted, then deleted": ("adjust with an id", [verb_call("delete_voucher", "A")]),
    "adjusted, then deleted and put again": (
        "adjust with an id",
        [verb_call("delete_voucher", "A"), verb_call("put_voucher", Voucher(code="A", credits=50))],
    ),
    "extended, then released": ("extend", [verb_call("release", "A", "k")]),
    "extended, then redeemed": ("extend", [verb_call("redeem", "A", session="k")]),
    "extended, then overridden": ("extend", [verb_call("validate", "A", credits=9, session=lock("k"))]),
    "extended, released, and validated again": (
        "extend",
        [verb_call("release", "A", "k"), verb_call("validate", "A", credits=9, session=lock("k"))],
    ),
    "extended, then the voucher deleted": ("extend", [verb_call("delete_voucher", "A")]),
    "a stack extended, then one of it released": ("extend_stack", [verb_call("release", "B", "k")]),
    "a stack extended, then one of it deleted": ("extend_stack", [verb_call("delete_voucher", "B")]),
    "a stack rolled back, then redeemed": ("rollback_stack", [verb_call("redeem", "A", credits=2)]),
}


@pytest.mark.parametrize("fault", ["close", "swallow", "late"])
@pytest.mark.parametrize("name", OVERTAKEN)
def test_overtaken_by_other_calls(name: str, fault: Fault, routes: list[Route]) -> None:
    """Before the client has repeated it; with ``late``, when the repetition was answered, before the first copy came."""
    call, others = OVERTAKEN[name]
    timeout = SHORT_TIMEOUT if fault in SILENT else LONG_TIMEOUT
    retrying = [route for route in routes if route.client_kind.retries]
    everywhere(retrying, lambda route: overtaken(VERB_CALLS[call], route, fault, timeout, others))
