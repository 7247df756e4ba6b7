"""Lets hundreds of greenlets use one engine; ``gevent.monkey`` runs it. The argument is the socket of a server."""

from __future__ import annotations

import json
import sys

import gevent
import redis
from gevent.monkey import is_module_patched

from voucher_sessions import Voucher, VoucherSessions

GREENLETS = 300
CALLS = 5


def main(socket: str) -> None:
    assert is_module_patched("socket")
    errors: list[str] = []
    done: list[bool] = []
    with redis.Redis(unix_socket_path=socket, client_name="greenlets") as client:
        engine = VoucherSessions(client, prefix="greenlets")

        def call(at: int) -> None:
            for each in range(CALLS):
                try:
                    engine.put_voucher(Voucher(code=f"{at}-{each}", credits=at))
                    done.append(engine.get_voucher(f"{at}-{each}").credits.limit == at)
                except Exception as error:
                    errors.append(repr(error))

        gevent.joinall([gevent.spawn(call, at) for at in range(GREENLETS)])
        opened = sum(each["name"] == "greenlets" for each in client.client_list()) - 1
        engine.close()
    print(json.dumps({"errors": errors[:3], "calls": sum(done), "connections": opened}))


if __name__ == "__main__":
    main(sys.argv[1])
