"""The engines of a Django project: one of each kind in each process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, Generic, TypeVar

from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured

from voucher_sessions import AsyncVoucherSessions, VoucherSessions
from voucher_sessions.contrib.django import conf

T = TypeVar("T")


def get_engine() -> VoucherSessions:
    """The engine of this process, as ``settings.VOUCHER_SESSIONS`` describes it. Threads share it.

    It is made at the first call. A process that is forked later, for example a worker of gunicorn with ``--preload``,
    makes an engine of its own. Do not close it.

    Raises:
        ImproperlyConfigured: The setting is missing, or has unknown keys or paths.
        InvalidRequest: A value of the setting is wrong.
    """
    return _engine.get()


def get_async_engine() -> AsyncVoucherSessions:
    """The asyncio engine of this process, for async views. It has the same vouchers as that of ``get_engine``.

    It serves all event loops of the process, also those that Django starts for one async view under WSGI. Do not close
    it.

    Raises:
        ImproperlyConfigured: The setting is missing, or has unknown keys or paths.
        InvalidRequest: A value of the setting is wrong.
    """
    return _async_engine.get()


def forget() -> None:
    """Make new engines at the next use, since the setting has changed; closes the sync engine of this process."""
    if engine := _engine.forget():
        engine.close()
    _async_engine.forget()  # it can be closed only in an event loop; its connections are closed with their loop


class _OneInEachProcess(Generic[T]):
    """Makes an object when a process first asks for it.

    A process that is forked does not use its parent's: neither its connections, nor a lock that another thread of the
    parent had at that moment.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}
        self._locks: dict[int, threading.Lock] = {}

    def get(self) -> T:
        process = os.getpid()
        if process not in self._made:
            with self._locks.setdefault(process, threading.Lock()):
                if process not in self._made:
                    self._made[process] = self._make()
        return self._made[process]

    def forget(self) -> T | None:
        """The object of this process, which is no longer returned; None if there was none."""
        return self._made.pop(os.getpid(), None)


def _make_engine() -> VoucherSessions:
    given = conf.read()
    if "ENGINE" in given:
        return _made_by(given["ENGINE"], VoucherSessions, "ENGINE")
    options = conf.engine_options(given)
    if iscoroutinefunction(loader := options.get("loader")):
        options["loader"] = async_to_sync(loader)
    return VoucherSessions.from_url(conf.url(given), **options)


def _make_async_engine() -> AsyncVoucherSessions:
    given = conf.read()
    if "ASYNC_ENGINE" in given:
        return _made_by(given["ASYNC_ENGINE"], AsyncVoucherSessions, "ASYNC_ENGINE")
    options = conf.engine_options(given)
    loader = options.get("loader")
    if loader is not None and not iscoroutinefunction(loader):
        options["loader"] = sync_to_async(loader)  # Django's ORM refuses to run in an event loop
    return AsyncVoucherSessions.from_url(conf.url(given), **options)


def _made_by(function: Any, kind: type[T], key: str) -> T:
    made = function() if callable(function) else None
    if not isinstance(made, kind):
        raise ImproperlyConfigured(f"{conf.SETTING}[{key!r}] must be a function that returns a {kind.__name__}")
    return made


_engine = _OneInEachProcess(_make_engine)
_async_engine = _OneInEachProcess(_make_async_engine)
