"""A proxy between clients and a server that loses commands or replies on request, and can cut the connection.

It knows of the protocol only how a script call begins: a client sends its next command when it has read the reply to
the last one, so the server's next data is the reply to that.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Literal, get_args

Fault = Literal[
    "lost",  # the command does not reach the server; the connection is closed
    "late",  # the command reaches the server after a delay
    "close",  # the server has run the command; instead of its reply, the connection is closed
    "reset",  # or reset
    "torn",  # or closed in the middle of the reply
    "swallow",  # or nothing happens at all, ever
    "delay",  # or the reply comes after a delay
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
Plan = Iterable[Fault | None]

SCRIPT = re.compile(rb"\*\d+\r\n\$\d+\r\nEVAL(SHA)?\r\n")
RESET = struct.pack("ii", 1, 0)


def at_random(seed: int, rate: float, faults: tuple[Fault, ...] = FAULTS) -> Iterator[Fault | None]:
    """A plan that never ends, the same for the same seed."""
    chance = random.Random(seed)
    while True:
        yield chance.choice(faults) if chance.random() < rate else None


class Proxy:
    """Listens on loopback, in a thread of its own, for a server on a Unix socket or on (host, port).

    ``plan`` says what becomes of the next script calls, one after the other, whichever connection they come by; a plan
    that has ended lets all through. ``meanwhile`` is run once, between a script's end and the fault of its reply. What
    is delayed comes after ``delay`` seconds; where that is None, when ``let_go`` is called.
    """

    def __init__(self, server: str | tuple[str, int], *, delay: float | None = None) -> None:
        self._server = server
        self._delay = delay
        self._plan: Iterator[Fault | None] = iter(())
        self.meanwhile: Callable[[], object] | None = None
        self.injected: Counter[str] = Counter()
        self.connections = 0
        self.calls = 0  # script calls that clients sent
        self.answers = 0  # replies to them that the server gave
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._mended = asyncio.Event()
        self._mended.set()
        self._let_go = asyncio.Event()
        self._links: set[asyncio.Task[None]] = set()
        listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(listening,), name="proxy")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def follow(self, plan: Plan) -> None:
        """What becomes of the script calls from now on."""
        self._loop.call_soon_threadsafe(self._let_go.clear)
        self._plan = iter(plan)

    def let_go(self) -> None:
        """What is delayed comes now."""
        self._loop.call_soon_threadsafe(self._let_go.set)

    def cut(self) -> None:
        """Nothing passes from now on, either way; what is sent waits, as in a network that will be mended."""
        self._loop.call_soon_threadsafe(self._mended.clear)

    def mend(self) -> None:
        """What was held back is delivered, and all passes again."""
        self._loop.call_soon_threadsafe(self._mended.set)

    def settle(self, calls: int) -> None:
        """Wait until that many script calls have come, and the server has answered all that reached it."""
        self._wait(lambda: self.calls >= calls and self.calls - self.injected["lost"] == self.answers)

    def wait_for(self, connections: int, calls: int) -> None:
        """Until that many have come."""
        self._wait(lambda: self.connections >= connections and self.calls >= calls)

    def _wait(self, reached: Callable[[], bool]) -> None:
        with self._changed:
            came = self._changed.wait_for(reached, 30)
            assert came, (self.connections, self.calls, self.answers, self.injected)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, listening: socket.socket) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._accepted, sock=listening))
        self._loop.run_forever()
        self._loop.run_until_complete(self._end(server))
        self._loop.close()

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._changed:
            self.connections += 1
            self._changed.notify_all()
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        with suppress(asyncio.CancelledError):  # by the proxy's end
            await Link(self, reader, writer).pass_on()
        self._links.discard(task)

    async def mended(self) -> None:
        await self._mended.wait()

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server."""
        if isinstance(self._server, str):
            return await asyncio.open_unix_connection(self._server)
        return await asyncio.open_connection(*self._server)

    async def late(self) -> None:
        await (self._let_go.wait() if self._delay is None else asyncio.sleep(self._delay))

    def next_fault(self) -> Fault | None:
        """Of the script call that has just come."""
        fault = next(self._plan, None)
        with self._changed:
            self.calls += 1
            self.injected.update([fault] if fault else [])
            self._changed.notify_all()
        return fault

    def answered(self, fault: Fault | None) -> None:
        """The server has given a script's reply."""
        if fault not in (None, "late") and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        with self._changed:
            self.answers += 1
            self._changed.notify_all()


class Link:
    """One client's connection, and its own to the server."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._fault: Fault | None = None  # of the call that is under way
        self._idle = asyncio.Event()  # no reply to a script is awaited
        self._idle.set()
        self._deaf = False

    async def pass_on(self) -> None:
        """Until one side closes."""
        try:
            self._server_reader, self._server_writer = await self._proxy.connected()
        except OSError:
            self._writer.close()
            return
        ways = [asyncio.ensure_future(self._commands()), asyncio.ensure_future(self._replies())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in (self._server_writer, self._writer):
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _commands(self) -> None:
        while data := await self._reader.read(1 << 16):
            await self._proxy.mended()
            if SCRIPT.match(data):
                self._fault = self._proxy.next_fault()
                if self._fault == "lost":
                    return
                self._idle.clear()
                if self._fault == "late":
                    await self._proxy.late()
            self._server_writer.write(data)
            await self._server_writer.drain()
        await self._idle.wait()  # a client that has gone leaves its call with the server
        await self._proxy.mended()

    async def _replies(self) -> None:
        while data := await self._server_reader.read(1 << 16):
            await self._proxy.mended()
            fault, self._fault = self._fault, None
            if not self._idle.is_set():
                self._proxy.answered(fault)
                self._idle.set()
            self._deaf = self._deaf or fault == "swallow"
            if self._deaf:
                continue
            if fault == "torn":
                self._writer.write(data[: len(data) // 2])
            if fault == "reset":
                self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self._writer.transport.abort()
            if fault in ("close", "reset", "torn"):
                return
            if fault == "delay":
                await self._proxy.late()
            with suppress(OSError):  # the connection to the client reports that the client has gone
                self._writer.write(data)
                await self._writer.drain()
        await self._proxy.mended()
