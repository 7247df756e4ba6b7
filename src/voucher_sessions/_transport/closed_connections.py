"""Recognises the errors of redis-py that are no errors of Redis, and yet mean that a reply was lost.

redis-py (6.0 to 8.1) raises ``AttributeError`` if another task closes the connection that a command is using, as cluster
clients do when they read the slot table anew; and asyncio raises ``RuntimeError`` if a connection belongs to another
event loop. A sync connection whose opening was interrupted, by a signal handler that raises, has a parser without a
reader. The same classes of errors come from mistakes in the application's code, such as a credential provider or a
wrapper around the client. Those must reach the caller as they are, so the class alone does not decide.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Final

import redis
from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError

from voucher_sessions._core.client_errors import ConnectionClosed

_ASYNCIO: Final = str(Path(asyncio.__file__).parent)
_REDIS_ASYNCIO: Final = str(Path(redis.__file__).parent / "asyncio")
_REDIS_PARSERS: Final = str(Path(redis.__file__).parent / "_parsers")
# What redis-py calls on the writer, the reader and the parser's reader of a connection. After the connection was closed
# they are None.
_OF_A_CONNECTION: Final = frozenset(
    (
        *("writelines", "drain", "close", "wait_closed", "transport"),
        *("read", "readline", "readexactly", "at_eof", "_buffer"),
        *("feed", "gets", "has_data"),
    )
)


def closed_connection(error: Exception) -> ConnectionClosed | None:
    """A ``ConnectionClosed`` if the error means that the connection was closed or is of another event loop, else None."""
    # While it opens a connection, redis.asyncio raises every error as a ConnectionError that is chained to it.
    cause = error.__cause__ if isinstance(error, RedisConnectionError) else error
    if isinstance(cause, AttributeError):
        recognised = cause.obj is None and cause.name in _OF_A_CONNECTION and _is_raised_in_redis(cause.__traceback__)
    else:
        recognised = isinstance(cause, RuntimeError) and _is_raised_in_redis(cause.__traceback__)
    if not recognised:
        return None
    lost = ConnectionClosed("the connection was closed, or is of another event loop")
    lost.__cause__ = error
    return lost


def is_of_interrupted_opening(error: AttributeError) -> bool:
    """Whether the error means that the opening of a sync connection was interrupted."""
    return isinstance(error.obj, BaseParser)


def _is_raised_in_redis(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame outside asyncio is one of redis-py, and not one of the application's."""
    innermost = ""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if not filename.startswith(_ASYNCIO):
            innermost = filename
        traceback = traceback.tb_next
    return innermost.startswith((_REDIS_ASYNCIO, _REDIS_PARSERS))
