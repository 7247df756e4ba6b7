"""A FastAPI application with one worker: an endpoint that locks a voucher, and one that reads a key."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
import uvicorn
from fastapi import FastAPI
from support.scripted_clients import AsyncThroughClient

from benchmarks.contenders import Verb, this_library
from voucher_sessions import AsyncVoucherSessions

READ, LOCK, LOCK_THROUGH_CLIENT = "read", "lock", "lock-through-client"


def application(address: str, connections: int) -> FastAPI:
    """``address``: the Unix socket of the Redis server; ``connections``: the limit of each pool."""
    options: Any = {"unix_socket_path": address, "max_connections": connections}
    client, overriding = redis.asyncio.Redis(**options), AsyncThroughClient(**options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client, overriding:
            yield

    app = FastAPI(lifespan=lifespan)

    async def read(code: str, key: str) -> dict[str, object]:
        value = await client.get(code)
        return {"session": key, "valid": value is not None}

    def lock(engine: AsyncVoucherSessions) -> Any:
        async def lock(code: str, key: str) -> dict[str, object]:
            result = await this_library.REQUESTS[Verb.LOCK](engine, code, key)
            return {"session": key, "valid": result.valid}

        return lock

    for path, endpoint in (
        (READ, read),
        (LOCK, lock(AsyncVoucherSessions(client))),
        (LOCK_THROUGH_CLIENT, lock(AsyncVoucherSessions(overriding))),
    ):
        app.post(f"/{path}/{{code}}/{{key}}")(endpoint)
    return app


def _serve(here: str, address: str, connections: int) -> None:
    uvicorn.run(application(address, connections), uds=here, log_level="warning", access_log=False)


@contextmanager
def running(address: str, connections: int) -> Iterator[str]:
    """The Unix socket of the application, which runs in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="vs-web-") as folder:
        here = str(Path(folder) / "s")
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_serve, args=(here, address, connections), daemon=True)
        process.start()
        try:
            _wait(here, process)
            yield here
        finally:
            process.terminate()
            process.join(20)


def _wait(here: str, process: Any) -> None:
    ends = time.monotonic() + 30
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if os.path.exists(here) and not probe.connect_ex(here):
                return
        if time.monotonic() > ends or not process.is_alive():
            raise RuntimeError("the application did not start")
        time.sleep(0.05)
