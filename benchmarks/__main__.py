"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
from pathlib import Path

from support.servers import BINARIES, running

import benchmarks
from benchmarks import escrowmint_python, postgres_server, report, results
from benchmarks.axes import AXES
from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders.all_contenders import Addresses
from benchmarks.measure import Samples

FOLDER = Path(__file__).parent


def main() -> None:
    """Measure, print all tables, and save the results; or generate the reports from saved results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("--only", action="append", choices=AXES, help="an axis (may be repeated; default: all)")
    parser.add_argument("--server", choices=BINARIES, default="valkey", help="default: valkey")
    parser.add_argument("--escrowmint", metavar="PYTHON", help="a Python that has escrowmint; default: it is installed")
    parser.add_argument("--rounds", type=int, help="default: 21; with fewer than 15 the figures vary much")
    parser.add_argument("--quick", action="store_true", help="only test that all axes run; the figures have no meaning")
    parser.add_argument("--save", type=Path, help="a folder for the results (default, when all is measured: this one)")
    parser.add_argument("--report", action="store_true", help="measure nothing: generate the reports from results.json")
    options = parser.parse_args()
    if options.report:
        report.regenerate(options.save or FOLDER)
        return
    if not options.quick and not options.only:
        options.save = options.save or FOLDER
    rounds = options.rounds or (2 if options.quick else 21)
    samples, circumstances = Samples(), dict[str, object]()
    escrowmint = options.escrowmint or escrowmint_python.path()
    with postgres_server.running() as url:
        for axis in options.only or AXES:
            # A new server, so that what one axis leaves does not change the memory and the expiries of the next.
            with running(options.server, enable_debug_command="yes") as server, server.client() as admin:
                addresses = Addresses(server.socket, url, escrowmint)
                AXES[axis].run(BenchmarkRun(addresses, admin, samples, rounds, options.quick))
                circumstances = results.circumstances(admin, rounds, addresses)
    measured = results.from_samples(samples, circumstances)
    print(report.results_page(measured))
    if options.save:
        report.save(measured, options.save)


if __name__ == "__main__":
    main()
