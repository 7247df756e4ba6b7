"""A relay between clients and a server that knows where commands and replies begin and end.

It records what came in each read, can keep replies back, and can insert or drop some of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from support.listener import Listener

from voucher_sessions._transport.packing import pack_in_python

Command = list[bytes]
CHANGES: Final = (b"EVAL", b"EVALSHA")
CLOSE: Final = b""  # in place of a reply


def packed(*words: str | bytes) -> bytes:
    """A command as it is sent."""
    return pack_in_python(words)


def end_of(data: bytes, at: int = 0) -> int:
    """Where the command or reply that begins at a position ends; -1 if that has not come yet."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return -1
    kind, text, end = data[at : at + 1], data[at + 1 : line_end], line_end + 2
    if kind in b"$=" and int(text) >= 0:
        end += int(text) + 2
        return end if end <= len(data) else -1
    if kind in b"*~>%":
        for _ in range(max(int(text), 0) * (2 if kind == b"%" else 1)):
            end = end_of(data, end)
            if end < 0:
                return -1
    return end


def words_of(command: bytes) -> Command:
    """The words of a command that was sent as an array of texts."""
    words, at = [], command.find(b"\r\n") + 2
    while at < len(command):
        begin = command.find(b"\r\n", at) + 2
        length = int(command[at + 1 : begin - 2])
        words.append(command[begin : begin + length])
        at = begin + length + 2
    return words


class Messages:
    """Cuts what comes over a connection into commands or replies."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._rest = b""

    async def read(self) -> list[bytes]:
        """Those that are complete after one read; none once the other side has closed."""
        while data := await self._reader.read(1 << 20):
            self._rest += data
            complete, at = [], 0
            while at < len(self._rest) and (end := end_of(self._rest, at)) >= 0:
                complete.append(self._rest[at:end])
                at = end
            self._rest = self._rest[at:]
            if complete:
                return complete
        return []


class Relay(Listener):
    """Listens on loopback, in a thread of its own, for a server on a Unix socket.

    ``reads`` are the script calls of each read from a client. While replies to scripts are held, ``let_go`` passes on as
    many as it is told. ``alter`` gets the number of a reply to a script, from 0, and the reply, and returns what to pass
    on instead; None: the reply. Behind ``CLOSE`` nothing comes: the connection is closed.
    """

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server = server
        self.reads: list[list[Command]] = []
        self.others: list[Command] = []
        self.connections = 0
        self.replies = 0
        self.most_in_flight = 0
        self.alter: Callable[[int, bytes], list[bytes]] | None = None
        self._free = float("inf")  # so many replies pass
        self._changed = threading.Condition()
        self._go = asyncio.Event()
        self.listen()

    @property
    def calls(self) -> list[Command]:
        """The script calls that came."""
        return [command for read in list(self.reads) for command in read]

    def hold(self) -> None:
        """Keep the replies to scripts back from now on; forget what came."""
        self._free = 0
        self.forget()

    def forget(self) -> None:
        """Count from here."""
        self.reads, self.others, self.replies, self.most_in_flight = [], [], 0, 0

    def let_go(self, replies: float = float("inf")) -> None:
        """Pass on so many more replies, or all from now on."""
        self._free += replies
        self.loop.call_soon_threadsafe(self._go.set)

    def wait(self, reached: Callable[[], bool]) -> None:
        """Until something has come."""
        with self._changed:
            assert self._changed.wait_for(reached, 30), (self.calls, self.others, self.replies)

    async def came(self, calls: int) -> None:
        """Until so many script calls have come."""
        await asyncio.to_thread(self.wait, lambda: len(self.calls) >= calls)

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        from_server, to_server = await asyncio.open_unix_connection(self._server)
        kinds: list[bool] = []  # of the commands without a reply: whether they run scripts
        ways = [
            asyncio.ensure_future(self._pass_commands(Messages(reader), to_server, kinds)),
            asyncio.ensure_future(self._pass_replies(Messages(from_server), writer, kinds)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # by the relay's end
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in (to_server, writer):
                each.close()
                with suppress(OSError, asyncio.CancelledError):
                    await each.wait_closed()

    async def _pass_commands(self, commands: Messages, server: asyncio.StreamWriter, kinds: list[bool]) -> None:
        while read := await commands.read():
            words = [words_of(each) for each in read]
            are_scripts = [each[0].upper() in CHANGES for each in words]
            kinds += are_scripts
            with self._changed:
                if any(are_scripts):
                    self.reads.append([each for each, is_script in zip(words, are_scripts, strict=True) if is_script])
                self.others += [each for each, is_script in zip(words, are_scripts, strict=True) if not is_script]
                self.most_in_flight = max(self.most_in_flight, len(self.calls) - self.replies)
                self._changed.notify_all()
            server.write(b"".join(read))

    async def _pass_replies(self, replies: Messages, client: asyncio.StreamWriter, kinds: list[bool]) -> None:
        while read := await replies.read():
            for reply in read:
                if reply.startswith(b">") or not kinds.pop(0):
                    client.write(reply)
                    continue
                while self._free < 1:
                    self._go.clear()
                    await self._go.wait()
                self._free -= 1
                at, self.replies = self.replies, self.replies + 1
                passed = [reply] if self.alter is None else self.alter(at, reply)
                client.writelines(passed)
                if CLOSE in passed:
                    return
