"""Signals whose handlers raise at any moment, in a real process: no crash, and each call has its own result.

The application's own commands are interrupted as well, and leave their connections behind by a reply.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import pytest
from support.scripted_clients import TRANSPORTS
from support.servers import BINARIES, Server, running

from faults.interrupted_application import create_vouchers
from voucher_sessions import VoucherSessions

SECONDS: Final = 300  # on two idle cores it takes 20
TESTS: Final = Path(__file__).parent.parent


def start(server: Server, calls: int, kind: str, transport: str) -> subprocess.Popen[str]:
    """The application, at work."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "faults.interrupted_application",
            server.socket,
            str(calls),
            str(SECONDS),
            str(seed),
            kind,
            transport,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(TESTS)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Python reports there what a handler raises in a finalizer
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def report_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    with process:
        output, _ = process.communicate(timeout=SECONDS + 40)  # the last calls, and a busy machine
        assert process.returncode == 0, f"a crash, if it is negative: {process.returncode}"
    report: dict[str, Any] = json.loads(output)
    return report


def assert_redeemed_once(engine: VoucherSessions, begun: list[tuple[str, int, str]]) -> None:
    """Repeat all redemptions, also those that were interrupted: in the end each has taken its credits once."""
    for at in range(0, len(begun), 500):
        pipe: Any = engine.pipeline()
        for code, credits, id_ in begun[at : at + 500]:
            pipe.redeem(code, credits=credits, redemption_id=id_)
        for (code, credits, id_), paid in zip(begun[at : at + 500], pipe.execute(), strict=True):
            assert (paid.code, paid.credits, paid.id) == (code, credits, id_)
    redemptions = Counter(code for code, _, _ in begun)
    for code, number in redemptions.items():
        state = engine.get_voucher(code)
        assert state.quantity.used == number
        assert state.credits.used == sum(credits for of, credits, _ in begun if of == code)
        locked = engine.list_sessions(code)
        assert (state.quantity.locked, state.credits.locked) == (len(locked), sum(each.credits for each in locked))
        assert not engine.audit(code).differs


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_timer_whose_handler_raises(transport: str) -> None:
    calls = 15_000
    with running("valkey") as server, server.client() as admin:
        engine = VoucherSessions(admin)
        create_vouchers(engine)
        report = report_of(start(server, calls, "alarm", transport))
        print({**report, "begun": len(report["begun"])})
        assert report["wrong"] == []
        assert sum(report["done"].values()) >= calls
        assert min(report["done"].values()) > 50, "each kind of call comes to an end"
        assert report["interrupted"] > calls / 10
        assert_redeemed_once(engine, report["begun"])


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize(("name", "transport"), list(zip(BINARIES, cycle(TRANSPORTS), strict=False)))
def test_ctrl_c(name: str, transport: str) -> None:
    """Another process sends SIGINT every millisecond or so."""
    with running(name) as server, server.client() as admin:
        engine = VoucherSessions(admin)
        create_vouchers(engine)
        process = start(server, 3000, "interrupt", transport)
        sent = 0
        assert process.stdout is not None
        while not select.select([process.stdout], [], [], random.uniform(0, 0.002))[0]:
            process.send_signal(signal.SIGINT)
            sent += 1
        report = report_of(process)
        assert report["wrong"] == []
        assert report["interrupted"] > 200
        assert_redeemed_once(engine, report["begun"])
