"""Makes the connections of a client pack numbers as text.

redis-py lets hiredis pack the arguments of a command. hiredis 3.5 crashes the process if the handler of a signal raises
while it packs a number. The engine sends no numbers, but redis-py itself does when it opens a connection (HELLO 3), and
after an interrupted call connections are opened anew. ``redis.asyncio`` packs in Python, where nothing can crash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.connection import ConnectionPool, HiredisRespSerializer


class _TextSerializer(HiredisRespSerializer):
    """Packs as redis-py does, but turns numbers into text before hiredis sees them."""

    def pack(self, *args: Any) -> Any:
        """The bytes to send. Errors are those of redis-py."""
        if not {str, bytes}.issuperset(map(type, args)):
            args = tuple(str(each) if type(each) in (int, float) else each for each in args)
        return super().pack(*args)


def send_numbers_as_text(client: Any) -> None:
    """Change the connections that a sync client with one server has, and those that it will open."""
    pool = getattr(client, "connection_pool", None)
    if not isinstance(pool, ConnectionPool):
        return
    if not isinstance(vars(pool).get("make_connection"), _MakeConnection):
        vars(pool)["make_connection"] = _MakeConnection(pool.make_connection)  # of this pool alone
    for name in ("_available_connections", "_in_use_connections", "_connections"):
        for each in list(getattr(pool, name, ())):
            packing_as_text(each)


class _MakeConnection:
    """Makes a connection as the pool does."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __call__(self) -> Any:
        return packing_as_text(self._make())


def packing_as_text(connection: Any) -> Any:
    """The connection, which packs numbers as text from now on. A packer of the application's own stays."""
    behind: Any = getattr(connection, "_conn", connection)  # the one behind a client-side cache
    if type(getattr(behind, "_command_packer", None)) is HiredisRespSerializer:
        behind._command_packer = _TextSerializer()
    return connection
