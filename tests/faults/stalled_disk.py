"""A stalled disk: the server's thread that flushes the append-only file is stopped, its other threads continue."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.servers import Server

SEIZE, INTERRUPT, OF_ANY_THREAD = 0x4206, 0x4207, 0x40000000


@contextmanager
def stalled_flushing(server: Server) -> Iterator[None]:
    """Until the server is killed, which must happen within."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    (thread,) = (int(task.name) for task in tasks if (task / "comm").read_text().startswith("bio_aof"))
    _trace(SEIZE, thread)
    _trace(INTERRUPT, thread)
    os.waitpid(thread, OF_ANY_THREAD)
    try:
        yield
    finally:
        server.process.kill()
        os.waitpid(thread, OF_ANY_THREAD)  # its end must be waited for before the server's
        server.process.wait()


def _trace(request: int, thread: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace of thread {thread} of our own child")
