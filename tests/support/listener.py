"""A server of connections for tests, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Self


class Listener:
    """Listens on loopback, on ``port``, in an event loop of its own. A subclass says what becomes of a connection.

    Its constructor calls ``listen`` when it has all that ``accepted`` needs. ``accepted`` is cancelled at the end.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._links: set[asyncio.Task[None]] = set()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run)

    def listen(self) -> None:
        self._thread.start()

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        server = self.loop.run_until_complete(asyncio.start_server(self._accepted, sock=self._listening))
        self.loop.run_forever()
        self.loop.run_until_complete(self._end(server))
        self.loop.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            await self.accepted(reader, writer)
        finally:
            self._links.discard(link)

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)  # one may be cancelled before it has begun
