"""``NotDurable`` for every verb: it carries the result, and the same call is confirmed once replicas are back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from support.servers import BINARIES
from support.waiting import until

from faults.replicas import ReplicatedServers, replicated_servers
from faults.workers_over_failovers import CurrentEngine, PrimaryAddress
from voucher_sessions import (
    Durability,
    NotDurable,
    Redeemable,
    RedemptionNotFound,
    SessionNotFound,
    Used,
    Voucher,
)

SOON = Durability(replicas=1, timeout_ms=20)
LOCK = {"type": "LOCK", "key": "cart"}
# Every verb that changes something, in an order in which each has something to do, and what its result must show.
STACK = [Redeemable(code="{A}1", credits=3), Redeemable(code="{A}2", credits=4)]
CODES = [each.code for each in STACK]
CHANGES: list[tuple[str, tuple[Any, ...], dict[str, Any], Callable[[Any], bool]]] = [
    ("put_voucher", (Voucher(code=CODES[0], credits=3),), {}, lambda state: state.credits.limit == 3),
    ("put_voucher", (Voucher(code=CODES[1], credits=4),), {}, lambda state: state.credits.limit == 4),
    ("put_voucher", (Voucher(code="A", credits=50),), {"used": Used(credits=10)}, lambda it: it.credits.used == 10),
    ("validate", ("A",), {"credits": 5, "session": LOCK}, lambda answer: answer.valid),
    ("release", ("A", "cart"), {}, lambda release: release.released),
    ("validate", ("A",), {"credits": 41, "session": LOCK}, lambda answer: not answer.valid),
    ("redeem", ("A",), {"credits": 5, "redemption_id": "order"}, lambda done: done.credits == 5),
    ("rollback", ("A", "order"), {}, lambda back: back.credits == 5),
    ("validate_stack", (STACK,), {"session": LOCK}, lambda answer: answer.valid),
    ("release_stack", (CODES, "cart"), {}, lambda releases: all(each.released for each in releases)),
    ("redeem_stack", (STACK,), {"redemption_id": "order"}, lambda done: done.redemptions[1].credits == 4),
    ("rollback_stack", (CODES, "order"), {}, lambda backs: backs[1].credits == 4),
    ("delete_voucher", (CODES[0],), {}, lambda deleted: deleted is True),
]


@pytest.fixture(scope="module", params=list(BINARIES))
def servers(request: pytest.FixtureRequest) -> Iterator[ReplicatedServers]:
    with replicated_servers(request.param) as servers:
        yield servers


@pytest.fixture
def mend(servers: ReplicatedServers) -> Iterator[Callable[[], None]]:
    """No replica hears from the primary until this is called."""

    def mend_all() -> None:
        for link in servers.links:
            link.mend()

    with servers.primary.client() as admin:
        admin.flushall()
    for link in servers.links:
        link.cut()
    yield mend_all
    mend_all()


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def open_engine(request: pytest.FixtureRequest, servers: ReplicatedServers) -> Iterator[Callable[[], Any]]:
    """Each has a connection of its own."""
    current_engines: list[CurrentEngine] = []

    def make() -> Any:
        current_engines.append(CurrentEngine(PrimaryAddress(servers.primary.url), SOON, asynchronous=request.param))
        return current_engines[-1]()

    yield make
    for current_engine in current_engines:
        current_engine.close()


def is_confirmed(call: Callable[[], Any]) -> bool:
    try:
        call()
    except NotDurable:
        return False
    return True


def test_every_change_raises_with_its_result_and_is_confirmed_when_repeated(
    mend: Callable[[], None], open_engine: Callable[[], Any]
) -> None:
    engine = open_engine()
    for verb, args, options, shows in CHANGES:
        with pytest.raises(NotDurable, match="0 of 1 replicas") as raised:
            getattr(engine, verb)(*args, **options)
        assert raised.value.verb == verb
        assert shows(raised.value.result)
    # What changes nothing waits for nobody, and neither does a refusal that is an error.
    assert engine.validate("A", credits=40).valid
    assert engine.list_sessions("A") == []
    assert engine.get_redemption("A", "order").rolled_back
    with pytest.raises(SessionNotFound):
        engine.redeem("A", session="cart")
    with pytest.raises(RedemptionNotFound):
        engine.rollback("A", "another")
    mend()
    for verb, args, options, _ in CHANGES[:-1]:
        if verb.startswith("redeem"):  # it was rolled back, so its id redeems nothing any more
            continue
        until(partial(is_confirmed, partial(getattr(engine, verb), *args, **options)))
    assert [engine.get_voucher(code).credits.used for code in ("A", *CODES)] == [10, 0, 0], "each had its effect once"


def test_a_call_that_finds_the_change_already_made_waits_too(
    mend: Callable[[], None], open_engine: Callable[[], Any]
) -> None:
    """The script then writes nothing, and for a connection that wrote nothing WAIT counts all replicas."""
    with pytest.raises(NotDurable):
        open_engine().put_voucher(Voucher(code="A", credits=50))
    for _ in range(2):
        with pytest.raises(NotDurable, match="0 of 1 replicas"):
            open_engine().redeem("A", credits=20, redemption_id="order")
    mend()
    until(partial(is_confirmed, partial(open_engine().redeem, "A", credits=20, redemption_id="order")))
