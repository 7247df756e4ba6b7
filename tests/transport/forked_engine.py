"""Forks while threads use an engine, and lets parent and child call at the same time. The argument is a socket."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import redis
from support.waiting import until

from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions._transport.connection_stack import exchange
from voucher_sessions._transport.keys_in_use import MAX_CHANGES

CALLS = 300


def count_wrong(engine: VoucherSessions, code: str) -> dict[str, int]:
    """Replies that belong to the calls of another process."""
    engine.put_voucher(Voucher(code=code, credits=len(code)))
    wrong = sum(engine.get_voucher(code).credits.limit != len(code) for _ in range(CALLS))
    return {"wrong": wrong, "calls": CALLS}


def lock(engine: VoucherSessions) -> str | None:
    return engine.validate("BUSY", session={"type": "LOCK", "key": "own"}).reason


def connection_id(engine: VoucherSessions) -> int:
    """What the server calls the connection that the next call will use."""
    sender: Any = engine._transport._sender
    stack = sender._only
    connection = stack.take()
    (number,) = exchange(connection, (), [("CLIENT", "ID")])
    stack.put_back(connection)
    return int(number)


def in_child(engine: VoucherSessions, busy: VoucherSessions) -> dict[str, object]:
    seen: dict[str, object] = {"child": count_wrong(engine, "CHILD"), "of child": connection_id(engine)}
    answered: list[str | None] = []
    thread = threading.Thread(target=lambda: answered.append(lock(busy)), daemon=True)
    thread.start()
    thread.join(20)
    seen["key in use"] = answered[0] if answered else "no answer"
    return seen


def main(socket: str) -> None:
    with redis.Redis(unix_socket_path=socket) as client, redis.Redis(unix_socket_path=socket) as admin:
        engine, busy = VoucherSessions(client, prefix="fork"), VoucherSessions(client, prefix="busy")
        busy.validate("BUSY")
        seen: dict[str, object] = {"before": connection_id(engine)}
        admin.client_pause(60_000, all=False)  # calls that may write wait
        waiting = [threading.Thread(target=lock, args=(busy,)) for _ in range(MAX_CHANGES)]
        for each in waiting:
            each.start()
        until(lambda: MAX_CHANGES in map(len, busy._transport._keys._users._users.values()))
        read, write = os.pipe()
        child = os.fork()
        admin.client_unpause()
        if not child:
            os.write(write, json.dumps(in_child(engine, busy)).encode())
            os._exit(0)
        os.close(write)
        seen |= {"parent": count_wrong(engine, "PARENT"), "of parent": connection_id(engine)}
        for each in waiting:
            each.join()
        with os.fdopen(read) as answer:
            seen |= json.loads(answer.read())
        os.waitpid(child, 0)
        print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
