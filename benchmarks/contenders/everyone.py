"""All contenders, with connections of their own: every process that measures opens its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis

from benchmarks.contenders import Contender, check_and_write, escrow, floor, ours, postgres


class Addresses(NamedTuple):
    """Where the servers are: a Unix socket, a URL."""

    socket: str
    postgres: str

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.socket, **options)


@contextmanager
def opened(addresses: Addresses) -> Iterator[list[Contender]]:
    """In the order of the tables."""
    client = addresses.client
    contenders = [
        floor.no_op(client()),
        floor.writes(client()),
        ours.contender(client()),
        escrow.contender(client(decode_responses=True)),
        check_and_write.locked(client(decode_responses=True)),
        check_and_write.locked(client(decode_responses=True), 0.001, check_and_write.LOCKED_EAGER),
        check_and_write.watched(client(decode_responses=True)),
        postgres.contender(addresses.postgres),
        postgres.contender(addresses.postgres, awaited=False),
    ]
    try:
        yield contenders
    finally:
        for contender in contenders:
            contender.close()
