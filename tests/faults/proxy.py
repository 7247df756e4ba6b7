"""A proxy between clients and a server that loses commands or replies on request, and can cut the connection.

It cuts what it passes on into commands and replies, so it knows which reply belongs to which command, however many are
under way on a connection.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Literal, NamedTuple

from support.listener import Listener

Fault = Literal[
    "lost",  # the command does not reach the server; the connection is closed when those before it have their replies
    "late",  # the command, and those behind it, reach the server after a delay
    "close",  # the server has run the command; instead of its reply and those behind it, the connection is closed
    "reset",  # or reset
    "torn",  # or closed in the middle of the reply
    "swallow",  # or nothing happens at all, ever
    "delay",  # or the reply and those behind it come after a delay
    "drop",  # the reply alone does not come: the next call would get the reply to the one after it
    "double",  # the reply comes twice: the next call would get it, and each one behind it the reply to the one before
]
FAULTS: tuple[Fault, ...] = ("lost", "late", "close", "reset", "torn", "swallow", "delay")
OUT_OF_STEP: tuple[Fault, ...] = ("drop", "double")
Plan = Iterable[Fault | None]

SCRIPT = re.compile(rb"\*\d+\r\n\$\d+\r\nEVAL(SHA)?\r\n")
# After these a server sends what is no reply: all is passed on as it comes.
REPLICATION = re.compile(rb"\*\d+\r\n\$\d+\r\nP?SYNC\r\n", re.IGNORECASE)
RESET = struct.pack("ii", 1, 0)


def at_random(seed: int, rate: float, faults: tuple[Fault, ...] = FAULTS) -> Iterator[Fault | None]:
    """A plan that never ends, the same for the same seed."""
    chance = random.Random(seed)
    while True:
        yield chance.choice(faults) if chance.random() < rate else None


class Frames:
    """Cuts one direction of a connection into commands or replies."""

    def __init__(self) -> None:
        self._unfinished = b""

    @property
    def is_within(self) -> bool:
        """Whether the beginning of one has come, and not its end."""
        return self._unfinished != b""

    def whole(self, data: bytes) -> Iterator[bytes]:
        """Those that end with this data."""
        data = self._unfinished + data
        begin = 0
        while (end := end_of_value(data, begin)) is not None:
            yield data[begin:end]
            begin = end
        self._unfinished = data[begin:]


def end_of_value(data: bytes, at: int) -> int | None:
    """Where the value of RESP ends that begins there; None if it has not all come yet."""
    missing = 1
    while missing:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        kind, size = data[at : at + 1], data[at + 1 : line_end]
        at = line_end + 2
        missing -= 1
        if kind in b"*~>%":
            missing += max(int(size), 0) * (2 if kind == b"%" else 1)
        elif kind in b"$!=" and int(size) >= 0:
            at += int(size) + 2
            if at > len(data):
                return None
    return at


class Proxy(Listener):
    """Listens on loopback, in a thread of its own, for a server on a Unix socket or on (host, port).

    ``plan`` says what becomes of the next script calls, one after the other, whichever connection they come by; a plan
    that has ended lets all through. ``meanwhile`` is run once, between a script's end and the fault of its reply. What
    is delayed comes after ``delay`` seconds; where that is None, when ``let_go`` is called.
    """

    def __init__(self, server: str | tuple[str, int], *, delay: float | None = None) -> None:
        super().__init__()
        self._server = server
        self._delay = delay
        self._plan: Iterator[Fault | None] = iter(())
        self.meanwhile: Callable[[], object] | None = None
        self.injected: Counter[str] = Counter()
        self.connections = 0
        self.calls = 0  # script calls that clients sent
        self.answers = 0  # replies to them that the server gave
        self._changed = threading.Condition()
        self._mended = asyncio.Event()
        self._mended.set()
        self._let_go = asyncio.Event()
        self.listen()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def follow(self, plan: Plan) -> None:
        """What becomes of the script calls from now on."""
        self.loop.call_soon_threadsafe(self._let_go.clear)
        self._plan = iter(plan)

    def let_go(self) -> None:
        """What is delayed comes now."""
        self.loop.call_soon_threadsafe(self._let_go.set)

    def cut(self) -> None:
        """Nothing passes from now on, either way; what is sent waits, as in a network that will be mended."""
        self.loop.call_soon_threadsafe(self._mended.clear)

    def mend(self) -> None:
        """What was held back is delivered, and all passes again."""
        self.loop.call_soon_threadsafe(self._mended.set)

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

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._changed:
            self.connections += 1
            self._changed.notify_all()
        with suppress(asyncio.CancelledError):  # by the proxy's end
            await Link(self, reader, writer).pass_on()

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


class Awaited(NamedTuple):
    """A command that has reached the server, whose reply has not come yet."""

    is_script: bool
    fault: Fault | None = None


class Link:
    """One client's connection, and its own to the server."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._awaited: deque[Awaited] = deque()
        self._idle = asyncio.Event()  # no reply to a script is awaited
        self._idle.set()
        self._sent, self._received = Frames(), Frames()
        self._is_opaque = False  # it is not cut into commands and replies: TLS, say
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
            for writer in (self._server_writer, self._writer):  # both before the next await, which may be cancelled
                writer.close()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in (self._server_writer, self._writer):
                with suppress(OSError):
                    await writer.wait_closed()

    async def _commands(self) -> None:
        is_open = True
        while is_open and (data := await self._reader.read(1 << 16)):
            await self._proxy.mended()
            self._is_opaque = self._is_opaque or not (data.startswith(b"*") or self._awaited or self._sent.is_within)
            if self._is_opaque:
                await self._to_server(data)
                continue
            for command in self._sent.whole(data):
                is_open = await self._command(command)
                if not is_open:
                    break
        await self._idle.wait()  # a client that has gone leaves its calls with the server
        await self._proxy.mended()

    async def _command(self, command: bytes) -> bool:
        """Pass it on; whether the connection stays open."""
        if SCRIPT.match(command):
            fault = self._proxy.next_fault()
            if fault == "lost":
                return False
            if fault == "late":
                await self._proxy.late()
            self._idle.clear()
            self._awaited.append(Awaited(is_script=True, fault=fault))
        elif REPLICATION.match(command):
            self._is_opaque = True
        else:
            self._awaited.append(Awaited(is_script=False))
        await self._to_server(command)
        return True

    async def _to_server(self, data: bytes) -> None:
        self._server_writer.write(data)
        await self._server_writer.drain()

    async def _replies(self) -> None:
        while data := await self._server_reader.read(1 << 16):
            await self._proxy.mended()
            if self._is_opaque:
                await self._to_client(data)
                continue
            for reply in self._received.whole(data):
                await self._reply(reply)
        await self._proxy.mended()

    async def _reply(self, reply: bytes) -> None:
        is_push = reply.startswith(b">")
        awaited = self._awaited.popleft() if self._awaited and not is_push else Awaited(is_script=False)
        fault = awaited.fault
        if awaited.is_script:
            self._proxy.answered(fault)
            if not any(each.is_script for each in self._awaited):
                self._idle.set()
        self._deaf = self._deaf or fault == "swallow"
        if self._deaf or fault == "drop":
            return
        if fault == "delay":
            await self._proxy.late()
        if fault in ("close", "reset", "torn"):
            self._end(reply, fault)
            return
        await self._to_client(2 * reply if fault == "double" else reply)

    def _end(self, reply: bytes, fault: Fault) -> None:
        """Close the connection to the client. Calls behind this one stay with the server."""
        self._deaf = True
        if fault == "torn":
            self._writer.write(reply[: len(reply) // 2])
        if fault == "reset":
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._writer.transport.abort()
        self._writer.close()

    async def _to_client(self, data: bytes) -> None:
        with suppress(OSError):  # the connection to the client reports that the client has gone
            self._writer.write(data)
            await self._writer.drain()
