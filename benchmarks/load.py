"""Axis: throughput of validate and release, by one process and by eight processes, on one voucher and on 10,000."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import Verb
from benchmarks.contenders.all_contenders import Addresses, open_contenders
from benchmarks.loops import Load, code
from benchmarks.measure import SERVER_US, THROUGHPUT, Scripts, Subject, progress, turns

AXIS = "load"
ONE, HOT, MANY = "one process, one voucher", "8 processes, one voucher", "8 processes, 10,000 vouchers"


def worker(tasks: Connection, addresses: Addresses) -> None:
    """The main function of a worker process: it executes tasks until it receives None."""
    with open_contenders(addresses) as contenders:
        by_name = {contender.name: contender for contender in contenders}
        tasks.send(None)
        while task := tasks.recv():
            name, load = task
            tasks.send(by_name[name].under_load(load))


class Workers:
    """Processes that execute a task at the same time."""

    def __init__(self, addresses: Addresses, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=worker, args=(there, addresses), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def throughput(self, contender: str, processes: int, vouchers: int, seconds: float) -> float:
        """The sum of the calls a second of all workers."""
        begins = time.monotonic() + 0.01
        for pipe in self._pipes[:processes]:
            pipe.send((contender, Load(vouchers, begins, begins + seconds)))
        return float(sum(pipe.recv() for pipe in self._pipes[:processes]))

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def run(bench: BenchmarkRun) -> None:
    """The contenders take turns, each for a fraction of a second."""
    processes, vouchers, seconds = (2, 100, 0.05) if bench.quick else (8, 10_000, 0.4)
    with ExitStack() as stack:
        contenders = [
            each for each in stack.enter_context(open_contenders(bench.addresses)) if Verb.RELEASE in each.verbs
        ]
        for contender in contenders:
            contender.put(map(code, range(vouchers)))
        workers = Workers(bench.addresses, processes)
        stack.callback(workers.close)
        for number in progress(AXIS, range(bench.rounds)):
            for case, width, spread in ((ONE, 1, 1), (HOT, processes, 1), (MANY, processes, vouchers)):
                for contender in turns(contenders, number):
                    before = Scripts.so_far(bench.admin)
                    rate = workers.throughput(contender.name, width, spread, seconds)
                    bench.samples.add(Subject(AXIS, case, contender.name, THROUGHPUT), rate)
                    calls, us = Scripts.so_far(bench.admin).since(before)
                    if contender.scripted:
                        bench.samples.add(Subject(AXIS, case, contender.name, SERVER_US), us / calls)
