"""How many commands each script runs, by verb and path: what a call costs the server is mostly that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import pytest
import redis
from servers import BINARIES, Server

from voucher_sessions import LimitExceeded, Redeemable, SessionNotFound, Used, Voucher, VoucherSessions

Step = Callable[[VoucherSessions], object]
STACK: Final = [Redeemable(code=code, credits=5) for code in ("GIFT", "CARD", "MORE")]
CODES: Final = [each.code for each in STACK]


def session(key: str, seconds: float = 100) -> dict[str, object]:
    return {"type": "LOCK", "key": key, "ttl": seconds, "ttl_unit": "SECONDS"}


def lock(key: str, seconds: float = 100, credits: int = 5) -> Step:
    return lambda engine: engine.validate("GIFT", credits=credits, session=session(key, seconds))


def locks_that_expired(engine: VoucherSessions) -> None:
    for number in range(3):
        lock(f"old-{number}", 0.001)(engine)
    time.sleep(0.01)


def redeem(key: str | None = None, credits: int | None = None) -> Step:
    return lambda engine: engine.redeem("GIFT", credits=credits, session=key, redemption_id="order")


def release(key: str) -> Step:
    return lambda engine: engine.release("GIFT", key)


def refused(step: Step) -> Step:
    def expect(engine: VoucherSessions) -> None:
        with pytest.raises((LimitExceeded, SessionNotFound)):
            step(engine)

    return expect


class Path(NamedTuple):
    """How many commands the script runs in ``does``, after ``given``; every test begins with three gift cards."""

    commands: int
    does: Step
    given: tuple[Step, ...] = ()


PATHS: Final = {
    "validate, no session": Path(2, lambda engine: engine.validate("GIFT", credits=5)),
    "validate, no session, unknown code": Path(3, lambda engine: engine.validate("NONE")),
    "validate, no session, locks beside": Path(2, lambda engine: engine.validate("GIFT"), (lock("a"),)),
    "validate, no session, used up": Path(2, lambda engine: engine.validate("GIFT", credits=101)),
    "validate, no session, held": Path(3, lambda engine: engine.validate("GIFT", credits=100), (lock("a"),)),
    "validate, first lock": Path(6, lock("a")),
    "validate, new lock, the last to expire": Path(6, lock("b", 200), (lock("a"),)),
    "validate, new lock, the first to expire": Path(6, lock("b", 50), (lock("a"),)),
    "validate, new lock, all others expired": Path(7, lock("a"), (locks_that_expired,)),
    "validate, new lock, others expired": Path(10, lock("a"), (lock("b"), locks_that_expired)),
    "validate, lock refused": Path(3, lock("b", credits=100), (lock("a"),)),
    "validate, override, same amounts": Path(6, lock("a", 200), (lock("a"),)),
    "validate, override, other amounts": Path(7, lock("a", 200, 7), (lock("a"),)),
    "validate, override, the last made shorter": Path(8, lock("a", 50, 7), (lock("b"), lock("a", 200))),
    "validate, override refused": Path(2, lock("a", credits=101), (lock("a"),)),
    "redeem with session": Path(6, redeem("a"), (lock("a"),)),
    "redeem with session, locks beside": Path(6, redeem("a"), (lock("b", 200), lock("a"))),
    "redeem with session, the last to expire": Path(8, redeem("a"), (lock("b"), lock("a", 200))),
    "redeem with session, others expired": Path(10, redeem("a"), (lock("a"), locks_that_expired)),
    "redeem with session, refused": Path(2, refused(redeem("a", 101)), (lock("a"),)),
    "redeem, session not live": Path(2, refused(redeem("a"))),
    "redeem, no session": Path(4, redeem(credits=5)),
    "redeem, no session, refused": Path(2, refused(redeem(credits=101))),
    "redeem, replayed": Path(1, redeem("a"), (lock("a"), redeem("a"))),
    "release": Path(5, release("a"), (lock("a"),)),
    "release, locks beside": Path(5, release("a"), (lock("b", 200), lock("a"))),
    "release, the last to expire": Path(7, release("a"), (lock("b"), lock("a", 200))),
    "release, not live": Path(2, release("a")),
    "rollback": Path(3, lambda engine: engine.rollback("GIFT", "order"), (redeem(credits=5),)),
    "get_voucher": Path(2, lambda engine: engine.get_voucher("GIFT"), (lock("a"),)),
    "put_voucher, new": Path(4, lambda engine: engine.put_voucher(Voucher(code="NEW"))),
    "put_voucher, known": Path(3, lambda engine: engine.put_voucher(Voucher(code="GIFT"))),
    "put_voucher, used": Path(3, lambda engine: engine.put_voucher(Voucher(code="GIFT"), used=Used(credits=1))),
    "delete_voucher": Path(2, lambda engine: engine.delete_voucher("GIFT"), (lock("a"),)),
    "list_sessions": Path(3, lambda engine: engine.list_sessions("GIFT"), (lock("a"),)),
    "get_redemption": Path(1, lambda engine: engine.get_redemption("GIFT", "order"), (redeem(credits=5),)),
    "validate_stack of 3, no session": Path(2, lambda engine: engine.validate_stack(STACK)),
    "validate_stack of 3, new locks": Path(17, lambda engine: engine.validate_stack(STACK, session=session("a"))),
    "redeem_stack of 3 with session": Path(
        17,
        lambda engine: engine.redeem_stack(STACK, session="a"),
        (lambda engine: engine.validate_stack(STACK, session=session("a")),),
    ),
    "release_stack of 3": Path(
        14,
        lambda engine: engine.release_stack(CODES, "a"),
        (lambda engine: engine.validate_stack(STACK, session=session("a")),),
    ),
}


@pytest.fixture(params=BINARIES)
def client(request: pytest.FixtureRequest, server_of: Callable[[str], Server]) -> Iterator[redis.Redis]:
    with server_of(request.param).client() as client:
        client.flushall()
        yield client


def within_scripts(client: redis.Redis, act: Callable[[], object]) -> list[str]:
    """The commands that scripts run in the meantime, as the server tells them by MONITOR."""
    found = []
    with client.monitor() as monitor:
        act()
        client.echo("the end")
        for told in iter(monitor.next_command, None):
            if told["command"].startswith("ECHO"):
                break
            if told["client_type"] == "lua":
                found.append(told["command"].split(" ")[0])
    return found


@pytest.mark.parametrize("path", PATHS)
def test_commands(client: redis.Redis, path: str) -> None:
    engine = VoucherSessions(client)
    for code in CODES:
        engine.put_voucher(Voucher(code=code, credits=100))
    expected, does, given = PATHS[path]
    for step in given:
        step(engine)
    commands = within_scripts(client, lambda: does(engine))
    assert len(commands) == expected, commands
