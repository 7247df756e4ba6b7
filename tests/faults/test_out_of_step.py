"""A connection of a shared client is one reply behind: each call has its own right result, once, and closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple

import pytest
import redis
import redis.exceptions
from support.servers import BINARIES, Server
from support.waiting import until

from faults.connections_out_of_step import (
    USER,
    Command,
    SharedClient,
    facts,
    is_one_closed,
    outcome_of,
    replies_like,
    replies_with,
    shared_client,
)
from faults.recorded_replies import RECORDED_CALLS, SESSION, RecordedCall, books, create_vouchers
from faults.test_cancelled_calls import Cancelled
from voucher_sessions import Durability, OutcomeUnknown, Voucher, VoucherSessions

NO_SCRIPT: Final = "0" * 40
OWN: Final = "own connections"
FOREIGN_ID: Final = "aaaaaaaaaaa"

# Commands of the application, by the replies that are left on the connection.
UNREAD: Final[dict[str, list[Command]]] = {
    "a text": [("GET", "greeting")],
    "none": [("GET", "missing")],
    "a number": [("INCR", "counter")],
    "a list": [("KEYS", "*")],
    "a call's reply, with another id": [replies_like(FOREIGN_ID, "deleted")],
    "a call's reply, without an id": [replies_like("deleted", "1")],
    "an error": [("LPUSH", "greeting", "x")],
    "an unknown script": [("EVALSHA", NO_SCRIPT, "0")],
    "no permission": [("CONFIG", "GET", "save")],
    "no permission for ECHO": [replies_with("NOPERM User shop has no permissions to run the 'echo' command")],
    "a wrong password": [("AUTH", "nobody", "wrong")],
    "two wrong passwords": [("AUTH", "nobody", "wrong")] * 2,
    "four wrong passwords": [("AUTH", "nobody", "wrong")] * 4,
    "an error of a stored value": [replies_with("CORRUPT book of another voucher")],
    "a newer format": [replies_with("FORMAT 9 of another voucher")],
    "a full memory": [replies_with("OOM command not allowed when used memory > 'maxmemory'.")],
    "queued": [("MULTI",), ("GET", "greeting")],
    "two texts": [("GET", "greeting"), ("GET", "farewell")],
    "two errors": [("LPUSH", "greeting", "x"), ("LPUSH", "farewell", "x")],
    "an error and a text": [("LPUSH", "greeting", "x"), ("GET", "farewell")],
    "a text and an error": [("GET", "farewell"), ("LPUSH", "greeting", "x")],
    "three errors": [("LPUSH", "greeting", "x")] * 3,
    "six errors": [("LPUSH", "greeting", "x")] * 6,
    "three unknown scripts": [("EVALSHA", NO_SCRIPT, "0")] * 3,
}
# After these a call on a single server may be told as one whose reply was lost: they say that a script did not run.
UNREAD_AND_TRANSIENT: Final[dict[str, list[Command]]] = {
    name: [replies_with(f"{name} x")] for name in ("TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "LOADING")
}

SERVERS: Final = list(BINARIES)
# From case to case another server: it is the library that is tested.
CASES: Final = [
    pytest.param((SERVERS[at % len(SERVERS)], commands), id=f"{name}-{SERVERS[at % len(SERVERS)]}")
    for at, (name, commands) in enumerate(UNREAD.items())
]
NOT_DURABLE: Final = Durability(replicas=1, timeout_ms=1)  # there is no replica


class Kind(NamedTuple):
    """A kind of client and engine."""

    kind: str
    protocol: int
    transport: str
    durability: Durability | None = None

    def __repr__(self) -> str:
        return f"{self.kind}-resp{self.protocol}-{self.transport}{'-durable' if self.durability else ''}"


KINDS: Final = [
    *(Kind("sync", 2, "client"), Kind("async", 3, "client"), Kind("sync", 3, OWN), Kind("async", 2, OWN)),
    *(Kind("sync", 3, "client", NOT_DURABLE), Kind("async", 2, "client", NOT_DURABLE)),
    *(Kind("sync", 2, OWN, NOT_DURABLE), Kind("async", 3, OWN, NOT_DURABLE)),
]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=KINDS, ids=repr)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def unread(case: tuple[str, list[Command]]) -> list[Command]:
    return case[1]


@pytest.fixture
def server(case: tuple[str, list[Command]], server_of: Callable[[str], Server]) -> Server:
    return server_of(case[0])


@pytest.fixture
def admin(server: Server) -> Iterator[redis.Redis]:
    with server.client() as admin:
        admin.execute_command(*USER)
        admin.config_set("hz", 500)  # so that WAIT ends soon after its timeout
        renew(admin)
        yield admin
        admin.config_set("hz", 10)
        admin.acl_deluser("shop")


def renew(admin: redis.Redis) -> None:
    """The same vouchers as ever, and the application's own keys."""
    admin.flushall()
    admin.mset({"greeting": "hello", "farewell": "goodbye"})
    create_vouchers(admin)


@pytest.fixture
def shared(kind: Kind, server: Server, admin: redis.Redis, loop: asyncio.AbstractEventLoop) -> Iterator[SharedClient]:
    options: dict[str, Any] = {"protocol": kind.protocol, "username": "shop", "password": "secret"}
    options["transport"] = kind.transport
    with shared_client(kind.kind, server.socket, loop, **options) as shared:
        yield shared


def in_pipeline(recorded_call: RecordedCall) -> Callable[[Any], Any]:
    """The call between two others that no call of the list changes."""

    def call(engine: Any) -> Any:
        pipe = engine.pipeline().validate("BESIDE", credits=1, session={"type": "LOCK", "key": "beside"})
        return executed(engine, recorded_call.call(pipe).get_voucher("NEVER"))

    return call


def executed(engine: Any, pipe: Any) -> list[Any]:
    results: Any = pipe.execute(raise_on_error=False)
    return list(engine._loop.run_until_complete(results) if asyncio.iscoroutine(results) else results)


def six_changes_of_one_key(engine: Any) -> Any:
    """More than a key remembers; each overrides the one before, and the last is redeemed."""
    pipe = engine.pipeline()
    for credits in range(1, 7):
        pipe.validate("A", credits=credits, session={"type": "LOCK", "key": "many"})
    return executed(engine, pipe.redeem("A", session="many", redemption_id="new"))


def six_changes_of_one_voucher(engine: Any) -> Any:
    """A call that is sent again shows the voucher as it is then, so its figures are left out."""
    pipe = engine.pipeline()
    for credits in range(1, 7):
        pipe.put_voucher(Voucher(code="A", credits=50 + credits))
    for number in range(3):
        pipe.redeem("A", credits=number, redemption_id=f"r{number}")
    return executed(engine, pipe)[6:]


PIPED: Final = [each for each in RECORDED_CALLS if each.verb not in ("audit", "repair")]
CALLS: Final[list[Callable[[Any], Any]]] = [
    *(each.call for each in RECORDED_CALLS),
    *map(in_pipeline, PIPED[::5]),
    six_changes_of_one_key,
    six_changes_of_one_voucher,
]


def prepare(admin: redis.Redis) -> VoucherSessions:
    renew(admin)
    engine = VoucherSessions(admin)
    engine.put_voucher(Voucher(code="BESIDE", credits=5))
    engine.put_voucher(Voucher(code="NEVER", quantity=0))
    return engine


def state(engine: VoucherSessions) -> Any:
    """All that is stored, as the engine shows it; times left out."""
    totals = [(found.recorded, found.differs) for found in (engine.audit(code) for code in ("BESIDE", "NEVER"))]
    return facts(books(engine)), totals


_EXPECTED: Final[dict[tuple[str, bool], list[tuple[Any, Any]]]] = {}


def expected_outcomes(server: Server, admin: redis.Redis, durability: Durability | None) -> list[tuple[Any, Any]]:
    """Of each call its result, and what is stored afterwards, with a client that nobody else uses."""
    case = server.socket, durability is not None
    if case not in _EXPECTED:
        _EXPECTED[case] = []
        for call in CALLS:
            checker = prepare(admin)
            outcome = facts(outcome_of(call, VoucherSessions(admin, durability=durability)))
            _EXPECTED[case].append((outcome, state(checker)))
    return _EXPECTED[case]


def test_each_call_gets_its_own_reply_and_closes_the_connection(
    kind: Kind, server: Server, shared: SharedClient, admin: redis.Redis, unread: list[Command]
) -> None:
    """With ``durability`` each change raises ``NotDurable``, and never takes another reply for the confirmation."""
    engine = shared.engine(durability=kind.durability)
    for call, expected in zip(CALLS, expected_outcomes(server, admin, kind.durability), strict=True):
        checker = prepare(admin)
        numbers = shared.send_unread_of(engine, *unread)
        outcome = outcome_of(call, engine)
        assert (facts(outcome), state(checker)) == expected, call
        # Tasks have one connection for changes that are confirmed, and one for the others: one of them is used.
        until(partial(is_one_closed, admin, *numbers), seconds=5)
        assert text_of(shared.execute("GET", "farewell")) == "goodbye"


def text_of(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


@pytest.mark.parametrize("case", [("valkey", UNREAD["a text"]), ("valkey", UNREAD["an error"])], indirect=True)
@pytest.mark.parametrize("single", [True, False], ids=["one connection", "pool"])
@pytest.mark.parametrize("engine_kind", ["sync", "async"])
def test_clients_of_every_kind_of_pool(
    server: Server,
    admin: redis.Redis,
    loop: asyncio.AbstractEventLoop,
    unread: list[Command],
    single: bool,
    engine_kind: str,
) -> None:
    """Pipelines of a client with one connection take another one from its pool."""
    with shared_client(engine_kind, server.socket, loop, single=single) as shared:
        engine = shared.engine()
        for at in range(3):
            number = shared.send_unread(*unread)
            assert engine.redeem("A", credits=1, redemption_id=f"order-{at}").id == f"order-{at}"
            until(partial(is_one_closed, admin, number), seconds=5)
            number = shared.send_unread(*unread, of_pool=True)
            assert executed(engine, engine.pipeline().redeem("A", credits=1, redemption_id=f"order-{at}"))[0].replayed
            until(partial(is_one_closed, admin, number), seconds=5)
            assert text_of(shared.execute("GET", "farewell")) == "goodbye"


@pytest.mark.parametrize("case", [("valkey", commands) for commands in UNREAD_AND_TRANSIENT.values()], indirect=True)
@pytest.mark.parametrize("kind", KINDS[:4], indirect=True, ids=repr)
def test_an_error_that_says_that_a_script_did_not_run_is_no_wrong_result(
    shared: SharedClient, admin: redis.Redis, unread: list[Command]
) -> None:
    """It is the right result, or the outcome is unknown; repeated, the call has had its effect once."""
    engine = shared.engine()
    for at in range(4):
        shared.send_unread_of(engine, *unread)
        try:
            redemption = engine.redeem("A", credits=1, redemption_id=f"order-{at}")
        except OutcomeUnknown as unknown:
            redemption = engine.redeem("A", credits=1, redemption_id=unknown.redemption_id)
        assert (redemption.id, redemption.credits) == (f"order-{at}", 1)
        shared.send_unread_of(engine, *unread)
        (outcome,) = executed(engine, engine.pipeline().get_voucher("A"))
        if not isinstance(outcome, redis.exceptions.RedisError):
            assert outcome.credits.used == 4 + at
        assert engine.get_voucher("A").credits.used == 4 + at


@pytest.mark.parametrize("case", [("valkey", [])], indirect=True)
@pytest.mark.parametrize("kind", [Kind("async", 2, "client"), Kind("async", 3, "client")], indirect=True, ids=repr)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_after_a_command_of_the_application_was_cancelled(
    shared: SharedClient, admin: redis.Redis, late: bool, server: Server
) -> None:
    """At each point at which a command of a task waits, on a connection that is there, and on a new one."""
    engine = shared.engine()
    checker = VoucherSessions(admin)
    checker.put_voucher(Voucher(code="A", credits=1000))

    def cancelled(command: Command, at: int) -> bool:
        running = Cancelled(shared.client.execute_command(*command), at, late=late)
        shared.loop.run_until_complete(running.run())
        return running.waited > at

    for command in (("GET", "greeting"), replies_like(FOREIGN_ID, "deleted")):
        for connected in (True, False):
            for at in count():
                if not connected:
                    shared.loop.run_until_complete(shared.client.connection_pool.disconnect())
                used = checker.get_voucher("A").credits.used
                more = cancelled(command, at)
                assert engine.redeem("A", credits=1, redemption_id=f"{command}-{connected}-{at}").credits == 1
                assert engine.validate("B", credits=2, session=SESSION).session.credits == 2
                assert engine.get_voucher("A").credits.used == used + 1
                if not more:
                    assert at > 0
                    break


@pytest.mark.parametrize("case", [("valkey", UNREAD["an error"]), ("valkey", UNREAD["a number"])], indirect=True)
def test_check_server_asks_over_new_connections(shared: SharedClient, unread: list[Command]) -> None:
    """Its commands have no call id."""
    expected = facts(shared.engine().check_server())
    for _ in range(3):
        shared.send_unread(*unread)
        assert facts(shared.engine().check_server()) == expected
