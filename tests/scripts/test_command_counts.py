"""How many commands each script runs, by verb and path: what a call costs the server is mostly that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import pytest
import redis
from support.servers import BINARIES, Server

from voucher_sessions import (
    AdjustmentRefused,
    LimitExceeded,
    Redeemable,
    RollbackExceeded,
    SessionNotFound,
    Used,
    Voucher,
    VoucherSessions,
)
from voucher_sessions.bulk import import_redemptions

# Aimed at: 4 where nothing is locked; 7 for a new lock, an override, a redemption with a session. A voucher's only lock
# takes two less than another, for it has no index.
COMMANDS: Final = {
    "validate, no session": 2,
    "validate, no session, unknown code": 3,
    "validate, no session, locks beside": 2,
    "validate, no session, used up": 2,
    "validate, no session, held": 3,
    "validate, first lock": 4,
    "validate, second lock": 7,
    "validate, new lock, the last to expire": 6,
    "validate, new lock, the first to expire": 5,
    "validate, new lock, another expired": 6,
    "validate, new lock, all others expired": 7,
    "validate, new lock, others expired": 12,
    "validate, lock refused": 3,
    "validate, override, the only lock": 4,
    "validate, override, same amounts": 6,
    "validate, override, other amounts": 7,
    "validate, override, the last made shorter": 6,
    "validate, override refused": 2,
    "redeem with session": 7,
    "redeem with session, locks beside": 7,
    "redeem with session, the last to expire": 7,
    "redeem with session, others expired": 13,
    "redeem with session, refused": 3,
    "redeem, session not live": 4,
    "redeem, no session": 5,
    "redeem, no session, refused": 3,
    "redeem, replayed": 1,
    "release": 5,
    "release, locks beside": 5,
    "release, the last to expire": 5,
    "release, not live": 3,
    "rollback": 3,
    "rollback of a part": 7,
    "rollback of a part, replayed": 1,
    "rollback of a part, more than is left": 3,
    "rollback of the rest": 3,
    "adjust": 5,
    "adjust, replayed": 3,
    "adjust, refused": 3,
    "extend, the only lock": 4,
    "extend, locks beside": 5,
    "extend, the last to expire": 6,
    "extend, not live": 3,
    "get_session": 2,
    "get_voucher": 2,
    "put_voucher, new": 5,
    "put_voucher, known": 3,
    "put_voucher, used": 3,
    "delete_voucher": 3,
    "list_sessions": 3,
    "list_sessions, the only lock": 2,
    "iter_sessions": 3,
    "get_redemption": 1,
    "import_redemptions": 5,
    "import_redemptions, known": 1,
    "validate_stack of 3, no session": 2,
    "validate_stack of 3, new locks": 12,
    "redeem_stack of 3 with session": 20,
    "release_stack of 3": 14,
    "extend_stack of 3": 11,
}

Step = Callable[[VoucherSessions], object]
STACK: Final = [Redeemable(code=code, credits=5) for code in ("GIFT", "CARD", "MORE")]
CODES: Final = [each.code for each in STACK]


def session(key: str, seconds: float = 100) -> dict[str, object]:
    return {"type": "LOCK", "key": key, "ttl": seconds, "ttl_unit": "SECONDS"}


def lock(key: str, seconds: float = 100, credits: int = 5) -> Step:
    return lambda engine: engine.validate("GIFT", credits=credits, session=session(key, seconds))


def lock_that_expired(engine: VoucherSessions) -> None:
    lock("old", 0.001)(engine)
    time.sleep(0.01)


def locks_that_expired(engine: VoucherSessions) -> None:
    for number in range(3):
        lock(f"old-{number}", 0.2)(engine)
    time.sleep(0.21)


def redeem(key: str | None = None, credits: int | None = None) -> Step:
    return lambda engine: engine.redeem("GIFT", credits=credits, session=key, redemption_id="order")


def release(key: str) -> Step:
    return lambda engine: engine.release("GIFT", key)


def rollback(credits: int | None = None) -> Step:
    rollback_id = None if credits is None else "return"
    return lambda engine: engine.rollback("GIFT", "order", credits=credits, rollback_id=rollback_id)


def adjust(credits: int) -> Step:
    return lambda engine: engine.adjust("GIFT", credits=credits, adjustment_id="top-up")


def extend(seconds: float = 100) -> Step:
    return lambda engine: engine.extend("GIFT", "a", ttl=seconds, ttl_unit="SECONDS")


def import_redemption(engine: VoucherSessions) -> None:
    import_redemptions(engine, [{"code": "GIFT", "id": "order", "credits": 5, "points": 0}], count=True)


def refused(step: Step) -> Step:
    def expect(engine: VoucherSessions) -> None:
        with pytest.raises((LimitExceeded, SessionNotFound, RollbackExceeded, AdjustmentRefused)):
            step(engine)

    return expect


class Path(NamedTuple):
    """What is counted, and what comes before it; every test begins with three gift cards."""

    does: Step
    given: tuple[Step, ...] = ()


PATHS: Final = {
    "validate, no session": Path(lambda engine: engine.validate("GIFT", credits=5)),
    "validate, no session, unknown code": Path(lambda engine: engine.validate("NONE")),
    "validate, no session, locks beside": Path(lambda engine: engine.validate("GIFT"), (lock("a"),)),
    "validate, no session, used up": Path(lambda engine: engine.validate("GIFT", credits=101)),
    "validate, no session, held": Path(lambda engine: engine.validate("GIFT", credits=100), (lock("a"),)),
    "validate, first lock": Path(lock("a")),
    "validate, second lock": Path(lock("b"), (lock("a"),)),
    "validate, new lock, the last to expire": Path(lock("c", 200), (lock("a"), lock("b"))),
    "validate, new lock, the first to expire": Path(lock("c", 50), (lock("a"), lock("b"))),
    "validate, new lock, another expired": Path(lock("a"), (lock_that_expired,)),
    "validate, new lock, all others expired": Path(lock("a"), (locks_that_expired,)),
    "validate, new lock, others expired": Path(lock("a"), (lock("b"), locks_that_expired)),
    "validate, lock refused": Path(lock("b", credits=100), (lock("a"),)),
    "validate, override, the only lock": Path(lock("a", 200, 7), (lock("a"),)),
    "validate, override, same amounts": Path(lock("a", 200), (lock("b"), lock("a"))),
    "validate, override, other amounts": Path(lock("a", 200, 7), (lock("b"), lock("a"))),
    "validate, override, the last made shorter": Path(lock("a", 50, 7), (lock("b"), lock("a", 200))),
    "validate, override refused": Path(lock("a", credits=101), (lock("a"),)),
    "redeem with session": Path(redeem("a"), (lock("a"),)),
    "redeem with session, locks beside": Path(redeem("a"), (lock("b", 200), lock("a"))),
    "redeem with session, the last to expire": Path(redeem("a"), (lock("b"), lock("a", 200))),
    "redeem with session, others expired": Path(redeem("a"), (lock("a"), locks_that_expired)),
    "redeem with session, refused": Path(refused(redeem("a", 101)), (lock("a"),)),
    "redeem, session not live": Path(refused(redeem("a"))),
    "redeem, no session": Path(redeem(credits=5)),
    "redeem, no session, refused": Path(refused(redeem(credits=101))),
    "redeem, replayed": Path(redeem("a"), (lock("a"), redeem("a"))),
    "release": Path(release("a"), (lock("a"),)),
    "release, locks beside": Path(release("a"), (lock("b", 200), lock("a"))),
    "release, the last to expire": Path(release("a"), (lock("b"), lock("a", 200))),
    "release, not live": Path(release("a")),
    "rollback": Path(rollback(), (redeem(credits=5),)),
    "rollback of a part": Path(rollback(2), (redeem(credits=5),)),
    "rollback of a part, replayed": Path(rollback(2), (redeem(credits=5), rollback(2))),
    "rollback of a part, more than is left": Path(refused(rollback(6)), (redeem(credits=5),)),
    "rollback of the rest": Path(rollback(), (redeem(credits=5), rollback(2))),
    "adjust": Path(adjust(5), (lock("a"),)),
    "adjust, replayed": Path(adjust(5), (adjust(5),)),
    "adjust, refused": Path(refused(adjust(-101))),
    "extend, the only lock": Path(extend(), (lock("a", 50),)),
    "extend, locks beside": Path(extend(), (lock("b", 200), lock("a", 50))),
    "extend, the last to expire": Path(extend(300), (lock("b", 200), lock("a", 50))),
    "extend, not live": Path(refused(extend())),
    "get_session": Path(lambda engine: engine.get_session("GIFT", "a"), (lock("a"),)),
    "get_voucher": Path(lambda engine: engine.get_voucher("GIFT"), (lock("a"),)),
    "put_voucher, new": Path(lambda engine: engine.put_voucher(Voucher(code="NEW"))),
    "put_voucher, known": Path(lambda engine: engine.put_voucher(Voucher(code="GIFT"))),
    "put_voucher, used": Path(lambda engine: engine.put_voucher(Voucher(code="GIFT"), used=Used(credits=1))),
    "delete_voucher": Path(lambda engine: engine.delete_voucher("GIFT"), (lock("a"),)),
    "list_sessions": Path(lambda engine: engine.list_sessions("GIFT"), (lock("a"), lock("b"))),
    "list_sessions, the only lock": Path(lambda engine: engine.list_sessions("GIFT"), (lock("a"),)),
    "iter_sessions": Path(lambda engine: list(engine.iter_sessions("GIFT")), (lock("a"), lock("b"))),
    "get_redemption": Path(lambda engine: engine.get_redemption("GIFT", "order"), (redeem(credits=5),)),
    "import_redemptions": Path(import_redemption),
    "import_redemptions, known": Path(import_redemption, (import_redemption,)),
    "validate_stack of 3, no session": Path(lambda engine: engine.validate_stack(STACK)),
    "validate_stack of 3, new locks": Path(lambda engine: engine.validate_stack(STACK, session=session("a"))),
    "redeem_stack of 3 with session": Path(
        lambda engine: engine.redeem_stack(STACK, session="a"),
        (lambda engine: engine.validate_stack(STACK, session=session("a")),),
    ),
    "release_stack of 3": Path(
        lambda engine: engine.release_stack(CODES, "a"),
        (lambda engine: engine.validate_stack(STACK, session=session("a")),),
    ),
    "extend_stack of 3": Path(
        lambda engine: engine.extend_stack(CODES, "a"),
        (lambda engine: engine.validate_stack(STACK, session=session("a")),),
    ),
}


@pytest.fixture(params=BINARIES)
def client(request: pytest.FixtureRequest, server_of: Callable[[str], Server]) -> Iterator[redis.Redis]:
    with server_of(request.param).client() as client:
        client.flushall()
        yield client


def within_scripts(client: redis.Redis, act: Callable[[], object]) -> list[str]:
    """The commands that scripts run in the meantime, as MONITOR reports them."""
    found = []
    with client.monitor() as monitor:
        act()
        client.echo("the end")
        for entry in iter(monitor.next_command, None):
            if entry["command"] == "ECHO the end":  # not the engine's own ECHO
                break
            if entry["client_type"] == "lua":
                found.append(entry["command"].split(" ")[0])
    return found


def test_every_path_is_counted() -> None:
    assert list(COMMANDS) == list(PATHS)


@pytest.mark.parametrize("path", COMMANDS)
def test_each_path_runs_the_expected_commands(client: redis.Redis, path: str) -> None:
    engine = VoucherSessions(client)
    for code in CODES:
        engine.put_voucher(Voucher(code=code, credits=100))
    does, given = PATHS[path]
    for step in given:
        step(engine)
    commands = within_scripts(client, lambda: does(engine))
    assert len(commands) == COMMANDS[path], commands
