"""Workers and servers killed with SIGKILL at random moments: acknowledged changes are there, and nothing is blocked.

A server with an append-only file writes each script's changes as one transaction, before it replies. With
``appendfsync always`` they are also on the disk by then. With ``everysec`` a second thread flushes once a second, and
while it is busy the server holds back what it has to write, for two seconds at most: a kill in that moment loses
acknowledged changes, although the machine keeps running. The changes that are lost are always the last ones.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from support.servers import BINARIES, running
from support.waiting import rounds, until

from faults.audit_of_workers import audit
from faults.linearizable import check
from faults.redemption_workers import CODES, HOUR_MS, SHORT_MS, WorkerProcesses, forked
from faults.stalled_disk import stalled_flushing
from voucher_sessions import Voucher, VoucherSessions

KILLS = 15
RESTARTS = 4
CUTS = 6
WORKERS = 4

# Two seconds, and what the clocks of servers that count in whole seconds and busy machines add to them.
BOUND = 3.5
ALWAYS = {"appendonly": "yes", "appendfsync": "always"}
EVERYSEC = {"appendonly": "yes", "appendfsync": "everysec"}


def wait_for_short_locks() -> None:
    time.sleep(max(SHORT_MS) / 1000 + 0.05)


def test_after_workers_were_killed_the_totals_match_their_results(tmp_path: Path) -> None:
    for at in rounds():
        with running("valkey") as server, server.client() as client:
            workers = WorkerProcesses(server.socket, tmp_path / str(at), seed=random.randrange(2**32))
            workers.open(WORKERS)
            for _ in range(KILLS):
                workers.kill_one()
                workers.open()
            workers.close()
            wait_for_short_locks()
            engine = VoucherSessions(client)
            found = audit(engine, workers.history)
            print(f"{KILLS} workers killed: {found}")
            assert not found.lost
            assert found.unknown > 0, "some were killed in the middle of a call"
            for code in CODES:
                assert engine.list_sessions(code) == [], "nothing is stuck"
                assert engine.get_voucher(code).quantity.locked == 0
            check(workers.history)


def hold_for_ever(socket: str) -> None:
    with VoucherSessions.from_url(f"unix://{socket}") as engine:
        engine.validate("LAST", session={"type": "LOCK", "key": "dead", "ttl": 2500, "ttl_unit": "MILLISECONDS"})
        time.sleep(600)


def test_the_lock_of_a_killed_process_expires_with_its_ttl() -> None:
    """Not before, and not after: a refused call returns when to retry, and then succeeds."""
    with running("valkey") as server, server.client() as client:
        engine = VoucherSessions(client)
        engine.put_voucher(Voucher(code="LAST", quantity=1))
        worker = forked.Process(target=hold_for_ever, args=(server.socket,), daemon=True)
        worker.start()
        until(lambda: bool(engine.list_sessions("LAST")))
        worker.kill()
        worker.join()
        refused = engine.validate("LAST", session={"type": "LOCK", "key": "next"})
        assert refused.locked_by_others
        assert refused.retry_after_ms is not None
        assert 0 < refused.retry_after_ms <= 2500
        time.sleep(refused.retry_after_ms / 1000)
        assert engine.validate("LAST", session={"type": "LOCK", "key": "next"}).valid


@pytest.mark.parametrize("name", list(BINARIES))
def test_a_server_that_flushes_always_is_killed_under_load_and_loses_nothing(name: str, tmp_path: Path) -> None:
    for at in rounds():
        with running(name, **ALWAYS) as server, server.client() as client:
            workers = WorkerProcesses(server.socket, tmp_path / str(at), seed=random.randrange(2**32), leave_ms=HOUR_MS)
            workers.open(WORKERS)
            for restart in range(RESTARTS):
                workers.until_written(random.randrange(20_000, 60_000))
                if restart == 1:
                    client.bgrewriteaof()  # the next one comes back from a snapshot and what was written since
                server.kill()
                time.sleep(random.uniform(0, 0.2))
                server.start()
            workers.until_written(20_000)
            workers.close()
            wait_for_short_locks()
            found = audit(VoucherSessions(client), workers.history)
            print(f"{name} killed {RESTARTS} times: {found}")
            assert not found.lost
            assert found.unknown > 0, "calls were under way"
            check(workers.history)


@pytest.mark.parametrize("name", list(BINARIES))
def test_locks_that_expire_while_the_server_is_down_are_expired(name: str) -> None:
    def session(key: str, ttl_ms: int) -> dict[str, object]:
        return {"type": "LOCK", "key": key, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}

    with running(name, **ALWAYS) as server, server.client() as client:
        engine = VoucherSessions(client)
        for code in ("MIXED", "OVER"):
            engine.put_voucher(Voucher(code=code, quantity=3, credits=30))
            for key in ("a", "b"):
                engine.validate(code, credits=10, session=session(key, 1000))
        engine.validate("MIXED", credits=10, session=session("long", HOUR_MS))
        engine.redeem("MIXED", session="a", redemption_id="order")
        server.kill()
        time.sleep(1.01)
        server.start()
        assert [each.key for each in engine.list_sessions("MIXED")] == ["long"]
        assert engine.list_sessions("OVER") == []
        mixed, over = engine.get_voucher("MIXED"), engine.get_voucher("OVER")
        assert (mixed.credits.used, mixed.credits.locked, mixed.quantity.locked) == (10, 10, 1)
        assert (over.credits.used, over.credits.locked, over.quantity.locked) == (0, 0, 0)
        assert engine.validate("OVER", credits=30, session=session("c", HOUR_MS)).valid
        assert engine.release("MIXED", "b").released is False
        assert engine.redeem("MIXED", session="long").credits == 10


@pytest.mark.parametrize("name", sorted({"valkey", "redis8"} & BINARIES.keys()))
def test_with_a_stalled_disk_at_most_the_last_two_seconds_are_lost(name: str, tmp_path: Path) -> None:
    for at in rounds():
        with running(name, **EVERYSEC) as server, server.client() as client:
            workers = WorkerProcesses(server.socket, tmp_path / str(at), seed=random.randrange(2**32), leave_ms=HOUR_MS)
            workers.open(WORKERS, patient=False)
            workers.until_written(20_000)
            with stalled_flushing(server):
                # It has waited, given up waiting and written all; and is somewhere in its next second or two.
                until(lambda: client.info("persistence")["aof_delayed_fsync"] >= 1)
                time.sleep(random.uniform(0, 0.7))
                until(lambda: client.info("persistence")["aof_buffer_length"] > 2_000)
                killed = time.monotonic_ns()
            workers.close()
            server.start()
            wait_for_short_locks()
            found = audit(VoucherSessions(client), workers.history)
            oldest = max((killed - (op.end or 0) for op in found.lost), default=0) / 1e9
            print(f"{name} killed while its disk stalled: {found}, the oldest {oldest:.2f} s before the end")
            assert found.lost, "acknowledged, and held back"
            assert found.is_a_prefix
            assert oldest < BOUND


@pytest.mark.parametrize("name", list(BINARIES))
def test_after_a_kill_or_power_cut_the_data_is_a_prefix_of_the_history(name: str, tmp_path: Path) -> None:
    """After a power cut the disk has a part of the file: it ends anywhere, in the middle of a script's changes too."""
    for at in rounds():
        with running(name, **EVERYSEC) as server, server.client() as client:
            engine = VoucherSessions(client)
            workers = WorkerProcesses(server.socket, tmp_path / str(at), seed=random.randrange(2**32), leave_ms=HOUR_MS)
            file = next(server.folder.glob("appendonlydir/*.incr.aof"))
            # While its disk is busy a server holds back what it writes to the file, for two seconds at most.
            until(lambda: client.info("persistence")["aof_buffer_length"] == 0)
            vouchers = file.stat().st_size
            workers.open(WORKERS, patient=False)
            workers.until_written(60_000)
            killed = time.monotonic_ns()
            server.kill()
            workers.close()
            whole, history = file.read_bytes(), workers.history
            wait_for_short_locks()
            server.start()
            found = audit(engine, history)
            print(f"{name} killed: {found}")
            assert found.is_a_prefix
            assert all(killed - (op.end or 0) < BOUND * 1e9 for op in found.lost)
            if not found.lost:
                check(history)
            lost = []
            for _ in range(CUTS):
                server.kill()
                file.write_bytes(whole[: random.randrange(vouchers, len(whole))])
                server.start()
                found = audit(engine, history)
                assert found.is_a_prefix
                lost.append(len(found.lost))
            print(f"its file cut off {CUTS} times: {sorted(lost)} lost")
            assert max(lost) > 0
