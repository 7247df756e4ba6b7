"""Tests that all contenders do the same work: limits, overrides, expiry, with one caller and with many at once.

pytest benchmarks
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import redis
from support.servers import running

from benchmarks import escrowmint_python, postgres_server
from benchmarks.bulk_locks import create_locks, now_ms
from benchmarks.contenders import Contender, Verb, escrowmint_reservations, postgres, redis_lock_and_watch, this_library
from benchmarks.contenders.all_contenders import NAMES, Addresses, open_contenders
from voucher_sessions import VoucherSessions

LOCKING = NAMES[2:]  # without the minimal scripts, which check nothing
CREDITS = 20  # four locks


@pytest.fixture(scope="module")
def addresses() -> Iterator[Addresses]:
    with running("valkey") as server, postgres_server.running() as url:
        yield Addresses(server.socket, url, escrowmint_python.path())


@pytest.fixture(params=LOCKING)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for module in (this_library, escrowmint_reservations, redis_lock_and_watch, postgres):
        monkeypatch.setattr(module, "CREDITS", CREDITS)
    return str(request.param)


@contextmanager
def open_contender(name: str, addresses: Addresses) -> Iterator[Contender]:
    with open_contenders(addresses) as contenders:
        yield next(each for each in contenders if each.name == name)


@pytest.fixture
def contender(name: str, addresses: Addresses) -> Iterator[Contender]:
    with open_contender(name, addresses) as contender:
        yield contender


@pytest.fixture
def code(request: pytest.FixtureRequest, contender: Contender) -> str:
    """A new card with credits for four locks."""
    contender.put([request.node.name])
    return str(request.node.name)


def granted(verb: Callable[[str, str], object], code: str, key: str) -> bool:
    try:
        verb(code, key)
    except Exception:
        return False
    return True


def test_names_has_all_contenders_in_order(addresses: Addresses) -> None:
    with open_contenders(addresses) as contenders:
        assert tuple(each.name for each in contenders) == NAMES


def test_nothing_is_granted_beyond_the_limit(contender: Contender, code: str) -> None:
    verbs = contender.verbs
    assert [granted(verbs[Verb.LOCK], code, key) for key in "abcde"] == [True] * 4 + [False]
    assert granted(verbs[Verb.RELEASE], code, "a")
    assert granted(verbs[Verb.LOCK], code, "e")
    assert granted(verbs[Verb.REDEEM_SESSION], code, "b")
    assert not granted(verbs[Verb.LOCK], code, "f")
    assert not granted(verbs[Verb.REDEEM], code, "f")
    assert granted(verbs[Verb.RELEASE], code, "c")
    assert granted(verbs[Verb.REDEEM], code, "f")
    assert not granted(verbs[Verb.LOCK], code, "g")


def test_a_session_is_redeemed_or_released_once(contender: Contender, code: str) -> None:
    verbs = contender.verbs
    assert granted(verbs[Verb.LOCK], code, "a")
    assert granted(verbs[Verb.REDEEM_SESSION], code, "a")
    assert not granted(verbs[Verb.RELEASE], code, "a")
    assert granted(verbs[Verb.LOCK], code, "b")
    assert granted(verbs[Verb.RELEASE], code, "b")
    assert not granted(verbs[Verb.REDEEM_SESSION], code, "b")


def test_an_override_replaces_the_lock(contender: Contender, code: str) -> None:
    verbs = contender.verbs
    if Verb.OVERRIDE not in verbs:
        assert contender.name == escrowmint_reservations.NAME
        return
    assert [granted(verbs[Verb.OVERRIDE], code, "a") for _ in range(4)] == [True] * 4  # 7 of 20, and not 28
    assert [granted(verbs[Verb.LOCK], code, key) for key in "bcd"] == [True, True, False]
    assert granted(verbs[Verb.LOCK], code, "a")
    assert not granted(verbs[Verb.OVERRIDE], code, "d")
    assert granted(verbs[Verb.LOCK], code, "d")


def test_expired_locks_are_available_again(
    monkeypatch: pytest.MonkeyPatch, name: str, addresses: Addresses, request: pytest.FixtureRequest
) -> None:
    for module in (this_library, escrowmint_reservations, redis_lock_and_watch, postgres):
        monkeypatch.setattr(module, "TTL_MINUTES", 1 / 30)
    with open_contender(name, addresses) as contender:
        contender.put([request.node.name])
        lock, code = contender.verbs[Verb.LOCK], request.node.name
        assert [granted(lock, code, key) for key in "abcde"] == [True] * 4 + [False]
        time.sleep(2.1)
        assert [granted(lock, code, key) for key in "ghijk"] == [True] * 4 + [False]


def test_concurrent_callers_are_granted_no_more(name: str, addresses: Addresses, code: str) -> None:
    def work(worker: int) -> int:
        with open_contender(name, addresses) as contender:
            lock = contender.verbs[Verb.LOCK]
            return sum(granted(lock, code, f"{worker}-{number}") for number in range(3))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 4


def test_escrowmint_has_a_redis_py_of_its_own(addresses: Addresses) -> None:
    versions = escrowmint_reservations.versions(addresses.escrowmint, addresses.socket)
    assert int(versions.rpartition(" ")[2].partition(".")[0]) < 7 <= int(redis.__version__.partition(".")[0])


def test_escrowmint_measures_in_its_own_process(addresses: Addresses) -> None:
    with open_contender(escrowmint_reservations.NAME, addresses) as contender:
        assert isinstance(contender, escrowmint_reservations.Escrowmint)
        contender.put(["MEASURED"])
        elapsed = contender.repeated(Verb.LOCK, [("MEASURED", "a"), ("MEASURED", "b")])
        assert elapsed.seconds > 0
        assert elapsed.cpu_seconds > 0
        assert contender.in_threads([[("MEASURED", "c")], [("MEASURED", "d")]]).seconds > 0
        assert granted(contender.verbs[Verb.RELEASE], "MEASURED", "a")
        with pytest.raises(RuntimeError, match="refused"):  # raised in the worker
            contender.verbs[Verb.RELEASE]("MEASURED", "unknown")


def test_locks_created_in_bulk_are_ordinary_locks(addresses: Addresses) -> None:
    with addresses.client() as client:
        engine = VoucherSessions(client)
        this_library.contender(client).put(["FILLED"])
        create_locks(client, "FILLED", 2_500, now_ms(client) + 60_000)
        assert engine.get_voucher("FILLED").quantity.locked == 2_500
        sessions = engine.list_sessions("FILLED", limit=10_000)
        assert len({session.key for session in sessions}) == 2_500
        assert engine.release("FILLED", sessions[0].key).released
