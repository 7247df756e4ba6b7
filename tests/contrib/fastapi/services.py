"""Runs an application with uvicorn on loopback, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn
from fastapi import FastAPI
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from support.waiting import until

from voucher_sessions import AsyncVoucherSessions
from voucher_sessions.contrib.fastapi import create_router


def app_without_retries(url: str, **options: Any) -> FastAPI:
    """An application with the router, whose client does not try again when a connection fails."""
    app = FastAPI()
    engine = AsyncVoucherSessions.from_url(url, retry=Retry(NoBackoff(), 0), **options)
    app.include_router(create_router(engine))
    return app


class Service(NamedTuple):
    """Where an application listens."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_service(app: FastAPI, **options: Any) -> Iterator[Service]:
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    config = uvicorn.Config(app, access_log=False, log_config=None, timeout_graceful_shutdown=10, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield Service(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
