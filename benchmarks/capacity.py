"""What one server carries: server time a call, memory a voucher, a lock and a receipt.

    python benchmarks/capacity.py [--url redis://…]

The figures behind docs/scaling.md. Server time is the server's own account (INFO commandstats), so it holds for a
server that does nothing else; memory is used_memory before and after, which counts what the allocator rounds up.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from voucher_sessions import Voucher, VoucherSessions

LOCKS = 20_000
CALLS = 500  # a round


def server_us(admin: Any, work: Callable[[int], object]) -> float:
    """Server time of a script call in µs."""
    admin.config_resetstat()
    for at in range(CALLS):
        work(at)
    return float(admin.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def bytes_each(admin: Any, work: Callable[[int], object]) -> float:
    """Memory that each of many calls takes, once the server has settled."""
    before = int(admin.info("memory")["used_memory"])
    for at in range(LOCKS):
        work(at)
    return (int(admin.info("memory")["used_memory"]) - before) / LOCKS


def session(at: int) -> dict[str, object]:
    """A key as long as a generated one."""
    return {"type": "LOCK", "key": f"ssn_{at:032}"}


def times(engine: VoucherSessions, rounds: int) -> dict[str, float]:
    """Server time of each verb on one hot voucher, in rounds that take turns."""
    admin: Any = engine.client
    engine.put_voucher(Voucher(code="HOT", credits=10**9))
    sha = admin.script_load("return 1")
    sent = [*(f"{{k}}:session:{at:032}" for at in range(3)), "key", "604800000", "5", "0"]
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        found["an EVALSHA that does nothing"].append(server_us(admin, lambda _: admin.evalsha(sha, 3, *sent)))
        found["validate, no session"].append(server_us(admin, lambda _: engine.validate("HOT", credits=5)))
        found["validate, new lock"].append(
            server_us(admin, lambda at: engine.validate("HOT", credits=5, session=session(at)))
        )
        found["validate, override"].append(
            server_us(admin, lambda at: engine.validate("HOT", credits=5, session=session(at)))
        )
        found["redeem with the session"].append(
            server_us(admin, lambda at: engine.redeem("HOT", session=f"ssn_{at:032}"))
        )
        for at in range(CALLS):
            engine.validate("HOT", credits=5, session=session(at))
        found["release"].append(server_us(admin, lambda at: engine.release("HOT", f"ssn_{at:032}")))
    print(file=sys.stderr)
    engine.delete_voucher("HOT")
    return {verb: statistics.median(values) for verb, values in found.items()}


def memory(engine: VoucherSessions) -> dict[str, float]:
    """Bytes of what there are many of."""
    admin: Any = engine.client
    engine.put_voucher(Voucher(code="SHARED", credits=10**9))
    return {
        "a lock, all on one voucher": bytes_each(
            admin, lambda at: engine.validate("SHARED", credits=5, session=session(at))
        ),
        "a voucher": bytes_each(admin, lambda at: engine.put_voucher(Voucher(code=f"GIFT-{at:06}", credits=5000))),
        "a lock, each on a voucher of its own": bytes_each(
            admin, lambda at: engine.validate(f"GIFT-{at:06}", credits=5, session=session(at))
        ),
        "a receipt": bytes_each(admin, lambda at: engine.redeem("SHARED", redemption_id=f"order-{at:08}")),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="embedded://", help="an empty server that may be filled")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with VoucherSessions.from_url(options.url, prefix="vs-bench", receipt_ttl=3600) as engine:
        found = times(engine, options.rounds)
        no_op = found["an EVALSHA that does nothing"]
        for verb, us in found.items():
            print(f"{verb:40}{us:8.1f} µs{us / no_op:8.1f} x{1e6 / us:12,.0f} a second and core")
        print("memory …", file=sys.stderr)
        for what, size in memory(engine).items():
            print(f"{what:40}{size:8.0f} bytes")


if __name__ == "__main__":
    main()
