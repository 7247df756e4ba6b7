"""What a stack costs the server: commands in the script, and server time, as a whole and a redeemable.

    python benchmarks/stacks.py [--url redis://…]

For stacks of 1, 3, 10 and 30 vouchers, hot (always the same vouchers) and cold (spread over 3,000), each verb is called
in rounds that take turns, so that a slow moment of the machine falls on all of them; told are the medians. An EVALSHA
that does nothing, with the keys and arguments of the largest stack, is the yardstick.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from voucher_sessions import Redeemable, Voucher, VoucherSessions

SIZES = (1, 3, 10, 30)
VOUCHERS = 3_000
CALLS = 100  # a round
Figure = tuple[float, float]  # commands a script, µs a call


def measured(admin: Any, work: Callable[[], object], calls: int) -> Figure:
    """What ``calls`` script calls cost the server, by its own account."""
    admin.config_resetstat()
    work()
    stats: dict[str, dict[str, float]] = admin.info("commandstats")
    evalsha = stats["cmdstat_evalsha"]
    assert evalsha["calls"] == calls, "each call was one script call"
    besides = ("cmdstat_evalsha", "cmdstat_config|resetstat", "cmdstat_info")
    commands = sum(stat["calls"] for name, stat in stats.items() if name not in besides)
    return commands / calls, evalsha["usec"] / calls


def rounds(engine: VoucherSessions, admin: Any, size: int, hot: bool) -> Iterator[tuple[str, Figure]]:
    """One round of every verb on stacks of one size; what it locks is redeemed or released again."""
    chance = random.Random(size)
    codes = [f"V{at}" for at in range(size)] if hot else []
    stacks = [codes or [f"V{at}" for at in chance.sample(range(VOUCHERS), size)] for _ in range(CALLS)]
    carts = [
        ([Redeemable(code=code, credits=5) for code in stack], {"type": "LOCK", "key": f"cart-{at}"})
        for at, stack in enumerate(stacks)
    ]

    def each(verb: Callable[[list[Redeemable], dict[str, Any]], object]) -> Figure:
        return measured(admin, lambda: [verb(stack, session) for stack, session in carts], CALLS)

    yield "validate, no session", each(lambda stack, _: engine.validate_stack(stack))
    yield "validate, new lock", each(lambda stack, session: engine.validate_stack(stack, session=session))
    yield "validate, override", each(lambda stack, session: engine.validate_stack(stack, session=session))
    yield "redeem, session", each(lambda stack, session: engine.redeem_stack(stack, session=session["key"]))
    for stack, session in carts:
        engine.validate_stack(stack, session=session)
    yield "release", each(lambda stack, session: engine.release_stack([one.code for one in stack], session["key"]))


def no_op(admin: Any) -> Figure:
    """An EVALSHA that does nothing, sent what the largest stack's redemption is sent."""
    sha = admin.script_load("return 1")
    keys, args = [f"{{k}}:session:{at}" for at in range(4 * SIZES[-1])], ["5"] * (4 + 2 * SIZES[-1])
    return measured(admin, lambda: [admin.evalsha(sha, len(keys), *keys, *args) for _ in range(CALLS)], CALLS)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="embedded://", help="a server that may be filled (default: one of its own)")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    figures: dict[tuple[str, bool, int], list[Figure]] = defaultdict(list)
    yardstick: list[Figure] = []
    with VoucherSessions.from_url(options.url, prefix="vs-bench", receipt_ttl=60) as engine:
        admin: Any = engine.client
        for at in range(VOUCHERS):
            engine.put_voucher(Voucher(code=f"V{at}", credits=10**9))
        for number in range(options.rounds):
            print(f"\rround {number + 1} of {options.rounds}", end="", file=sys.stderr, flush=True)
            yardstick.append(no_op(admin))
            for size in SIZES:
                for hot in (True, False):
                    for verb, figure in rounds(engine, admin, size, hot):
                        figures[verb, hot, size].append(figure)
        for at in range(VOUCHERS):
            engine.delete_voucher(f"V{at}")
    print(file=sys.stderr)
    print(f"an EVALSHA that does nothing, with as many keys as 30 vouchers: {medians(yardstick)[1]:.1f} µs\n")
    print(f"{'':22}{'vouchers':>9}{'commands':>10}{'hot µs':>9}{'cold µs':>9}{'hot µs each':>13}")
    for verb in dict.fromkeys(verb for verb, _, _ in figures):
        for size in SIZES:
            commands, hot_us = medians(figures[verb, True, size])
            _, cold_us = medians(figures[verb, False, size])
            print(f"{verb:22}{size:>9}{commands:>10.1f}{hot_us:>9.1f}{cold_us:>9.1f}{hot_us / size:>13.1f}")


def medians(values: list[Figure]) -> Figure:
    """Of commands and time apart."""
    return statistics.median(each[0] for each in values), statistics.median(each[1] for each in values)


if __name__ == "__main__":
    main()
