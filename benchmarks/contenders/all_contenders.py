"""Opens all contenders, each with a connection of its own. Every process that measures does so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import redis

from benchmarks.contenders import (
    Contender,
    escrowmint_reservations,
    minimal_scripts,
    postgres,
    redis_lock_and_watch,
    this_library,
)

# In the order of the tables.
NAMES: Final = (
    minimal_scripts.NO_OP,
    minimal_scripts.COMMANDS,
    this_library.NAME,
    escrowmint_reservations.NAME,
    redis_lock_and_watch.LOCKED,
    redis_lock_and_watch.LOCKED_EAGER,
    redis_lock_and_watch.WATCHED,
    postgres.NAME,
    postgres.NOT_AWAITED,
)


class Addresses(NamedTuple):
    """The Unix socket of the Redis server, the URL of PostgreSQL, and the path of a Python that has escrowmint."""

    socket: str
    postgres: str
    escrowmint: str

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.socket, **options)


@contextmanager
def open_contenders(addresses: Addresses) -> Iterator[list[Contender]]:
    """All contenders, in the order of the tables."""
    client = addresses.client
    contenders = [
        minimal_scripts.no_op(client()),
        minimal_scripts.commands(client()),
        this_library.contender(client()),
        escrowmint_reservations.contender(addresses.escrowmint, addresses.socket),
        redis_lock_and_watch.locked(client(decode_responses=True)),
        redis_lock_and_watch.locked(client(decode_responses=True), 0.001, redis_lock_and_watch.LOCKED_EAGER),
        redis_lock_and_watch.watched(client(decode_responses=True)),
        postgres.contender(addresses.postgres),
        postgres.contender(addresses.postgres, awaited=False),
    ]
    try:
        yield contenders
    finally:
        for contender in contenders:
            contender.close()
