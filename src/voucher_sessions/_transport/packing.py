"""Packs the commands that go over connections of the engine's own: by hiredis, if it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Final

from redis._parsers.encoders import Encoder
from redis.connection import PythonRespSerializer
from redis.utils import HIREDIS_AVAILABLE

from voucher_sessions._core.call import Arg

_CHUNK_BYTES: Final = 6000  # as in redis-py's own connections
_serializer: Final = PythonRespSerializer(_CHUNK_BYTES, Encoder("utf-8", "strict", decode_responses=False).encode)


def pack_in_python(command: tuple[Arg, ...]) -> bytes:
    """The bytes to send for a command."""
    return b"".join(_serializer.pack(*command))


_pack_command: Final[Callable[[tuple[Arg, ...]], bytes]] = (
    import_module("hiredis").pack_command if HIREDIS_AVAILABLE else pack_in_python
)


def pack(commands: Iterable[tuple[Arg, ...]]) -> bytes:
    """The bytes to send for the commands.

    Their words are texts or bytes, never numbers: hiredis 3.5.0 crashes the process if a signal handler raises while it
    packs a number.
    """
    return b"".join(map(_pack_command, commands))
