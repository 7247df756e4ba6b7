"""Axis: the two reply parsers of redis-py, hiredis and the one written in Python."""

from __future__ import annotations

from typing import Any

import redis
from redis.connection import ConnectionPool, UnixDomainSocketConnection

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import SESSION_VERBS, minimal_scripts, this_library
from benchmarks.measure import measure, progress, turns
from benchmarks.verbs import case_of, sessions

AXIS = "parsers"
# Private names of redis-py, which uses hiredis if it is installed.
PARSERS = {"hiredis": "_HiredisParser", "Python's": "_RESP2Parser"}


def _client(bench: BenchmarkRun, parser: str) -> redis.Redis:
    parser_class: Any = getattr(redis.connection, parser)
    pool: Any = ConnectionPool(
        connection_class=UnixDomainSocketConnection, path=bench.addresses.socket, parser_class=parser_class
    )
    return redis.Redis(connection_pool=pool)


def run(bench: BenchmarkRun) -> None:
    """Parsers and contenders take turns within each verb."""
    calls = 10 if bench.quick else 100
    contenders = {
        (parser, make): make(_client(bench, PARSERS[parser]))
        for parser in PARSERS
        for make in (minimal_scripts.no_op, this_library.contender)
    }
    for number in progress(AXIS, range(bench.rounds)):
        cards = {which: f"P{at}-{number:05}" for at, which in enumerate(contenders)}
        for which, contender in contenders.items():
            contender.put([cards[which]])
        for verb in SESSION_VERBS:
            for which in turns(contenders, number):
                contender = contenders[which]
                subject = AXIS, f"{verb}, {which[0]} parser", contender.name
                case = case_of(subject, contender, verb, cards[which], sessions(verb, calls))
                measure(bench.samples, bench.admin, case, calls)
    for contender in contenders.values():
        contender.close()
