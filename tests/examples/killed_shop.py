"""Runs the shop of examples/sql_agreement in processes that end themselves with SIGKILL at a given step.

As a program it has no connections of its own. It forks a process for each job, a line of JSON on its standard input:

    {"action": "checkout", "order_id": "order", "session_key": "cart", "step": 3}

and answers with "killed" or "complete". So each process is a real one, and starts in milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

from sql_agreement.shop import pay, pay_pending, place_order, roll_back
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from voucher_sessions import VoucherSessions

NOW = timedelta(0)


class KilledShop:
    """Starts the processes, by the program."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program

    def completes(self, action: str, step: int, *, order_id: str = "order", session_key: str | None = None) -> bool:
        """Whether the process came to its end before the step at which it was to be killed."""
        job = {"action": action, "order_id": order_id, "session_key": session_key, "step": step}
        assert self._program.stdin
        assert self._program.stdout
        self._program.stdin.write(json.dumps(job) + "\n")
        self._program.stdin.flush()
        answer = self._program.stdout.readline().strip()
        assert answer in {"killed", "complete"}, answer
        return answer == "complete"


@contextmanager
def running_shop(database_url: str, server_url: str) -> Iterator[KilledShop]:
    command = [sys.executable, __file__, database_url, server_url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        yield KilledShop(program)


def watch(database: Engine, vouchers: VoucherSessions, reached: Callable[..., None]) -> None:
    """Call ``reached`` before and after every statement, commit and call to Redis."""
    for name in ("begin", "before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(database, name, reached)
    event.listen(Session, "after_commit", reached)
    for name in ("redeem", "rollback"):
        vars(vouchers)[name] = watched(getattr(vouchers, name), reached)


def watched(call: Callable[..., Any], reached: Callable[..., None]) -> Callable[..., Any]:
    def watched_call(*args: Any, **options: Any) -> Any:
        reached()
        result = call(*args, **options)
        reached()
        return result

    return watched_call


def killed_at(step: int) -> Callable[..., None]:
    """To be called at every step: it ends the process at the given one. No handler runs, nothing is closed."""
    steps = count()

    def reached(*_: object) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def do(job: dict[str, Any], database_url: str, server_url: str) -> None:
    """What the forked process does."""
    database, vouchers = create_engine(database_url), VoucherSessions.from_url(server_url)
    watch(database, vouchers, killed_at(job["step"]))
    match job["action"]:
        case "checkout":
            place_order(database, job["order_id"], "GIFT", credits=30, session_key=job["session_key"])
            pay(database, vouchers, job["order_id"])
        case "pay_pending":
            pay_pending(database, vouchers, older_than=NOW)
        case "roll_back":
            roll_back(database, vouchers, job["order_id"])


def main(database_url: str, server_url: str) -> None:
    for line in sys.stdin:
        if not (process := os.fork()):
            try:
                do(json.loads(line), database_url, server_url)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print({0: "complete", -signal.SIGKILL: "killed"}.get(status, f"failed: {status}"), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
