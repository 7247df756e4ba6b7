"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse

from servers import BINARIES, running

import benchmarks.load
import benchmarks.verbs
from benchmarks import postgres_server
from benchmarks.bench import Bench
from benchmarks.contenders.everyone import Addresses
from benchmarks.measure import Samples
from benchmarks.report import table

AXES = {"verbs": benchmarks.verbs.run, "load": benchmarks.load.run}


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("--only", action="append", choices=AXES, help="an axis (may be repeated; default: all)")
    parser.add_argument("--server", choices=BINARIES, default="valkey")
    parser.add_argument("--rounds", type=int, default=21, help="at least 15 for figures to be told")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    samples = Samples()
    with running(options.server) as server, postgres_server.running() as url, server.client() as admin:
        bench = Bench(Addresses(server.socket, url), admin, samples, options.rounds, options.quick)
        for axis in options.only or AXES:
            AXES[axis](bench)
    print("\n".join(table(samples)))


if __name__ == "__main__":
    main()
