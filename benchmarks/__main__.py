"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
from pathlib import Path

from support.servers import BINARIES, running

import benchmarks
from benchmarks import plot, postgres_server, report
from benchmarks.axes import AXES
from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders.all_contenders import Addresses
from benchmarks.measure import Samples

FOLDER = Path(__file__).parent


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("--only", action="append", choices=AXES, help="an axis (may be repeated; default: all)")
    parser.add_argument("--server", choices=BINARIES, default="valkey", help="default: valkey")
    parser.add_argument("--rounds", type=int, help="default: 21; fewer than 15 tell little")
    parser.add_argument("--quick", action="store_true", help="to see that all runs; the figures tell nothing")
    parser.add_argument("--save", type=Path, help="a folder for the results (default, when all is measured: this one)")
    options = parser.parse_args()
    if not options.quick and not options.only:
        options.save = options.save or FOLDER
    rounds = options.rounds or (2 if options.quick else 21)
    samples, circumstances = Samples(), {}
    with postgres_server.running() as url:
        for axis in options.only or AXES:
            # A server that nothing has been done with: memory and expiry are not to tell of the axis before.
            with running(options.server, enable_debug_command="yes") as server, server.client() as admin:
                AXES[axis].run(BenchmarkRun(Addresses(server.socket, url), admin, samples, rounds, options.quick))
                circumstances = report.circumstances(admin, rounds)
    print("\n".join(report.table(samples)))
    print("\n".join(report.targets(samples)))
    if options.save:
        report.save(samples, circumstances, options.save)
        (options.save / "results.svg").write_text(plot.svg(samples), "utf-8")


if __name__ == "__main__":
    main()
