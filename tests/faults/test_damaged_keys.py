"""Keys that something other than this library deletes, evicts, edits or flushes.

The result is a clear error or a correct state, never a redemption beyond the limit, never a negative number.
"""

from __future__ import annotations

import random
import time
from contextlib import suppress
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
from conftest import Backend
from support.model import edit_book, read_book, written_book
from support.servers import BINARIES, running
from support.sessions import lock
from support.waiting import rounds, until

from faults.recount import LIMIT, LOCKED, USED, book_of, recount
from faults.redemption_workers import CODES, SHORT_MS, WorkerProcesses, limits
from voucher_sessions import (
    AmountRequired,
    CorruptState,
    LimitExceeded,
    RedemptionNotFound,
    SessionNotFound,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)

BOOK = "vs:{A}"


@pytest.fixture
def engine(backend: Backend) -> VoucherSessions:
    """With a voucher, two sessions and a redemption of it."""
    engine = VoucherSessions(backend.admin)
    engine.put_voucher(Voucher(code="A", quantity=9, credits=100))
    for key in ("cart", "other"):
        assert engine.validate("A", credits=10, session=lock(key)).valid
    engine.redeem("A", credits=5, redemption_id="order")
    return engine


# --- Keys that are gone -------------------------------------------------------------------------------------------


def test_deleting_the_vouchers_key_deletes_the_voucher(engine: VoucherSessions, backend: Backend) -> None:
    backend.admin.delete(BOOK)
    assert engine.validate("A", session=lock("cart")).reason == "not_found"
    for act in (
        methodcaller("get_voucher", "A"),
        methodcaller("list_sessions", "A"),
        methodcaller("redeem", "A"),
        methodcaller("redeem", "A", session="cart"),
        methodcaller("audit", "A"),
    ):
        with pytest.raises(VoucherNotFound):
            act(engine)
    assert engine.release("A", "cart").released is False
    assert engine.delete_voucher("A") is False
    assert engine.redeem("A", credits=5, redemption_id="order").replayed, "receipts outlive the voucher"


def test_a_voucher_put_after_its_key_was_deleted_starts_with_nothing(engine: VoucherSessions, backend: Backend) -> None:
    backend.admin.delete(BOOK)
    state = engine.put_voucher(Voucher(code="A", quantity=1, credits=10))
    assert (state.quantity.used, state.quantity.locked) == (0, 0)
    assert engine.list_sessions("A") == []
    assert engine.release("A", "cart").released is False
    with pytest.raises(SessionNotFound):
        engine.redeem("A", session="cart")
    assert engine.redeem("A", credits=10).credits == 10
    assert engine.rollback("A", "order").credits == 5, "the receipt of the deleted voucher"
    assert engine.get_voucher("A").credits.used == 10
    recount(backend.admin, "A")


def test_deleting_a_receipt_makes_its_redemption_unknown(engine: VoucherSessions, backend: Backend) -> None:
    """Its amounts stay used, and the same id is a new redemption: within the limit, like any other."""
    backend.admin.delete(f"{BOOK}:redemption:order")
    for ask in (engine.get_redemption, engine.rollback):
        with pytest.raises(RedemptionNotFound):
            ask("A", "order")
    assert engine.redeem("A", credits=70, redemption_id="order").replayed is False
    assert engine.get_voucher("A").credits.used == 75
    backend.admin.delete(f"{BOOK}:redemption:order")
    with pytest.raises(LimitExceeded):
        engine.redeem("A", credits=70, redemption_id="order")


# --- Books of nonsense --------------------------------------------------------------------------------------------

VERBS = [
    methodcaller("put_voucher", Voucher(code="A", credits=5)),
    methodcaller("get_voucher", "A"),
    methodcaller("validate", "A", credits=1),
    methodcaller("validate", "A", credits=1, session=lock("new")),
    methodcaller("validate", "A", credits=1, session=lock("cart")),
    methodcaller("redeem", "A", credits=1),
    methodcaller("redeem", "A", session="cart"),
    methodcaller("release", "A", "cart"),
    methodcaller("rollback", "A", "order"),
    methodcaller("list_sessions", "A"),
    methodcaller("delete_voucher", "A"),
    methodcaller("audit", "A"),
    methodcaller("repair", "A"),
]
NO_BOOKS = ["[]", "{}", '{"13": 1}', "null", "7", '"text"', "[[]]", '["life", "put"]', "[" * 2000]


def refused_by_all(engine: VoucherSessions, backend: Backend, text: str) -> None:
    """As corrupt state, and left as it is."""
    backend.admin.set(BOOK, text)
    before = backend.contents()
    for act in VERBS:
        with pytest.raises(CorruptState):
            act(engine)
        assert backend.contents() == before, act


@pytest.mark.parametrize("text", [*NO_BOOKS, *("1" + text for text in NO_BOOKS)], ids=lambda text: text[:20])
def test_json_that_is_no_voucher_is_corrupt_state(engine: VoucherSessions, backend: Backend, text: str) -> None:
    refused_by_all(engine, backend, text)


BAD: list[Any] = ["x", None, True, -5, 5.5, 1e300, []]


@pytest.mark.parametrize("at", range(14))
def test_a_voucher_with_an_invalid_field_is_corrupt_state(engine: VoucherSessions, backend: Backend, at: int) -> None:
    """An edit that leaves a number in the place of a number cannot be recognised; all others are."""
    values = book_of(backend.admin, "A") or []
    for bad in BAD[1:] if at < 2 else BAD:  # any text may be a call id
        refused_by_all(engine, backend, written_book([*values[:at], bad, *values[at + 1 :]]))


# --- Totals out of step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(8, 13))
@pytest.mark.parametrize("value", [0, 1, 90, 2**53 - 1])
def test_wrong_totals_give_results_and_are_repaired(
    engine: VoucherSessions, backend: Backend, at: int, value: int
) -> None:
    edit_book(backend.admin, "A", at, value)
    for ends in (False, True):
        if ends:
            for key in ("cart", "other", "new"):
                engine.release("A", key)
        answer = engine.validate("A", credits=50)
        assert answer.valid or answer.locked_by_others
        engine.validate("A", credits=50, session=lock("new"))
        engine.get_voucher("A")
        engine.list_sessions("A")
    engine.repair("A")
    recount(backend.admin, "A", damaged=True)
    assert engine.validate("A", credits=50, session=lock("new")).valid
    assert engine.release("A", "new").released
    assert engine.redeem("A", credits=95).credits == 95
    with pytest.raises(LimitExceeded):
        engine.redeem("A", credits=1)


class KeyDamager:
    """Buys and breaks by chance, and knows what it was granted. Redemptions stay: no book and no receipt is touched."""

    QUANTITY, CREDITS = 40, 200

    def __init__(self, backend: Backend, seed: int) -> None:
        self._backend, self._engine = backend, VoucherSessions(backend.admin)
        self._chance = random.Random(seed)
        self._spent: dict[str, int] = {}
        self._engine.put_voucher(Voucher(code="A", quantity=self.QUANTITY, credits=self.CREDITS))

    def go(self, steps: int) -> None:
        for _ in range(steps):
            with suppress(AmountRequired, LimitExceeded, SessionNotFound):
                self._chance.choice([self._redeem, self._redeem, self._redeem, self._damage])()
            assert len(self._spent) <= self.QUANTITY
            assert sum(self._spent.values()) <= self.CREDITS
        self._engine.repair("A")
        recount(self._backend.admin, "A", damaged=True)
        state = self._engine.get_voucher("A")
        assert (state.quantity.used, state.credits.used) == (len(self._spent), sum(self._spent.values()))

    def _redeem(self) -> None:
        key, credits = f"key-{self._chance.randrange(6)}", self._chance.randrange(30)
        way = self._chance.randrange(8)
        if way < 4:
            self._engine.validate("A", credits=credits, session=lock(key, self._chance.choice([1, 60_000])))
        elif way == 4:
            self._engine.release("A", key)
        elif way == 5 and self._spent:
            order = self._chance.choice(sorted(self._spent))
            self._engine.rollback("A", order)
            del self._spent[order]
        else:
            named = self._chance.choice([None, credits])
            paid = self._engine.redeem("A", credits=named, session=self._chance.choice([None, key]))
            self._spent[paid.id] = paid.credits

    def _damage(self) -> None:
        admin, way = self._backend.admin, self._chance.randrange(5)
        if way == 0:
            admin.delete(f"{BOOK}:locks")
        elif way == 1:
            admin.delete(f"{BOOK}:session:key-{self._chance.randrange(6)}")
        elif way == 2:
            admin.zremrangebyrank(f"{BOOK}:locks", 0, 0)
        elif way == 3:
            edit_book(self._backend.admin, "A", self._chance.choice([8, 9, 10]), self._chance.randrange(300))
        else:
            soon = self._backend.clock.now_ms() + self._chance.randrange(-100, 60_000)
            edit_book(self._backend.admin, "A", self._chance.choice([11, 12]), max(0, soon))


def test_random_damage_never_leads_to_redemptions_beyond_the_limit(backend: Backend) -> None:
    for _ in rounds():
        for _ in range(10):
            backend.admin.flushall()
            seed = random.randrange(2**32)
            print(f"seed {seed}")
            KeyDamager(backend, seed).go(150)


# --- Evicted, flushed away ----------------------------------------------------------------------------------------


def errors_seen(workers: WorkerProcesses) -> set[str]:
    return {op.seen["error"] for op in workers.history if isinstance(op.seen, dict) and "error" in op.seen}


EXPECTED = {"VoucherNotFound", "SessionNotFound", "RedemptionNotFound", "ServerRefused"} | {
    each.__name__ for each in LimitExceeded.__subclasses__()
}


@pytest.mark.parametrize("name", list(BINARIES))
def test_evicted_locks_never_lead_to_redemptions_beyond_the_limit(name: str, tmp_path: Path) -> None:
    """Under a volatile- policy, against which check_server warns: locks go, what was redeemed stays."""
    with running(name, maxmemory_policy="volatile-random") as server, server.client() as admin:
        engine = VoucherSessions(admin)
        assert "maxmemory-policy" in [each.subject for each in engine.check_server()]
        workers = WorkerProcesses(server.socket, tmp_path, seed=random.randrange(2**32), leave_ms=3_600_000)
        workers.open(4)
        workers.until_written(50_000)
        for _ in range(3):
            admin.config_set("maxmemory", admin.info("memory")["used_memory"] - 5_000)
            workers.until_written(30_000)
            admin.config_set("maxmemory", 0)
            workers.until_written(30_000)
        workers.close()
        evicted = admin.info("stats")["evicted_keys"]
        print(f"{len(workers.history)} calls, {evicted} keys evicted")
        assert evicted > 20
        assert errors_seen(workers) <= EXPECTED
        time.sleep(max(SHORT_MS) / 1000 + 0.05)
        for code in CODES:
            engine.repair(code)
        recount(admin, *CODES, damaged=True)


@pytest.mark.parametrize("name", list(BINARIES))
def test_flushall_while_workers_redeem(name: str, tmp_path: Path) -> None:
    """Each time somebody puts the vouchers again: they begin anew, and give no more than they have."""
    with running(name) as server, server.client() as admin:
        engine = VoucherSessions(admin)
        workers = WorkerProcesses(server.socket, tmp_path, seed=random.randrange(2**32))
        workers.open(4)
        for at in range(6):
            workers.until_written(20_000)
            with admin.pipeline() as at_once:
                for code in CODES:
                    at_once.get(f"vs:{{{code}}}")
                at_once.script_flush() if at % 2 else at_once.ping()
                at_once.flushall()
                *books, _, _ = at_once.execute()
            for values, _ in map(read_book, books):
                for limit, used, locked in zip(values[LIMIT], values[USED], values[LOCKED], strict=True):
                    assert limit < 0 or 0 <= used + locked <= limit
            if at == 0:
                until(lambda: bool(errors_seen(workers)))  # the vouchers are not back before a worker has missed one
            for code in CODES:
                engine.put_voucher(limits(code))
        workers.until_written(20_000)
        workers.close()
        print(f"{len(workers.history)} calls, flushed 6 times")
        assert "VoucherNotFound" in errors_seen(workers) or "SessionNotFound" in errors_seen(workers)
        assert errors_seen(workers) <= EXPECTED - {"ServerRefused"}
        recount(admin, *CODES)
