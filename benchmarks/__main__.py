"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse

from servers import BINARIES, running

import benchmarks.verbs
from benchmarks.contenders import escrow, floor, ours
from benchmarks.measure import Samples
from benchmarks.report import table


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("--server", choices=BINARIES, default="valkey")
    parser.add_argument("--rounds", type=int, default=21, help="at least 15 for figures to be told")
    parser.add_argument("--calls", type=int, default=200, help="in a row, before the next contender's turn")
    options = parser.parse_args()
    samples = Samples()
    with running(options.server) as server:
        admin = server.client()
        contenders = [
            floor.no_op(server.client()),
            floor.writes(server.client()),
            ours.contender(server.client()),
            escrow.contender(server.client(decode_responses=True)),
        ]
        benchmarks.verbs.run(samples, admin, contenders, options.rounds, options.calls)
        for contender in contenders:
            contender.close()
        admin.close()
    print("\n".join(table(samples)))


if __name__ == "__main__":
    main()
