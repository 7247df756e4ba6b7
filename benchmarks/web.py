"""Axis: a FastAPI endpoint that locks, and one that does one GET through redis.asyncio, called by 64 HTTP clients."""

from __future__ import annotations

import asyncio
import itertools
import time

from benchmarks import endpoints
from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import CREDITS, this_library
from benchmarks.measure import THROUGHPUT, Subject, progress, turns
from benchmarks.verbs import key
from voucher_sessions import Voucher, VoucherSessions

AXIS, CLIENTS = "FastAPI", 64
CASE = f"{CLIENTS} clients, one worker"
ONE_GET, LOCK, LOCK_THROUGH_CLIENT = "one GET", this_library.NAME, f"{this_library.NAME}, through the client"
PATHS = {
    ONE_GET: endpoints.READ,
    LOCK: endpoints.LOCK,
    LOCK_THROUGH_CLIENT: endpoints.LOCK_THROUGH_CLIENT,
}
_keys = map(key, itertools.count())


def code(number: int) -> str:
    return f"WEB-{number:05}"


class HttpClient:
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, path: str) -> None:
        """Stop the benchmark if the answer is not a grant."""
        self._writer.write(f"POST /{path} HTTP/1.1\r\nHost: benchmark\r\nContent-Length: 0\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        if not head.startswith(b"http/1.1 200") or b'"valid":true' not in body:
            raise RuntimeError(f"{path}: {head!r} {body!r}")

    def close(self) -> None:
        self._writer.close()


async def _calls_a_second(clients: list[HttpClient], path: str, calls: int) -> float:
    async def work(number: int, client: HttpClient) -> None:
        for session_key in itertools.islice(_keys, calls // CLIENTS):
            await client.post(f"{path}/{code(number)}/{session_key}")

    began = time.perf_counter()
    await asyncio.gather(*itertools.starmap(work, enumerate(clients)))
    return calls / (time.perf_counter() - began)


async def _run(bench: BenchmarkRun, here: str) -> None:
    calls = CLIENTS * (2 if bench.quick else 12)
    clients = [HttpClient(*await asyncio.open_unix_connection(here)) for _ in range(CLIENTS)]
    for path in PATHS.values():  # opens the connections to the server
        await _calls_a_second(clients, path, 2 * CLIENTS)
    for number in progress(AXIS, range(bench.rounds)):
        for contender in turns(PATHS, number):
            rate = await _calls_a_second(clients, PATHS[contender], calls)
            bench.samples.add(Subject(AXIS, CASE, contender, THROUGHPUT), rate)
    for client in clients:
        client.close()


def run(bench: BenchmarkRun) -> None:
    """The endpoints take turns. The clients of all are in this process, the application in another."""
    with bench.addresses.client() as client:
        engine = VoucherSessions(client)
        for number in range(CLIENTS):
            engine.put_voucher(Voucher(code=code(number), credits=CREDITS))
            client.set(code(number), "1")
        engine.close()
    with endpoints.running(bench.addresses.socket, CLIENTS) as here:
        asyncio.run(_run(bench, here))
