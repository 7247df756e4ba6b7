"""The example shop as gunicorn loads it: its engines are used before the workers are forked.

Every response names its process. ``/echo/CODE`` and ``/async-echo/CODE`` put a voucher and read it. If workers used the
connections of the process that forked them, they would read each other's replies.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django_shop import urls
from django_shop.wsgi import application as shop

from voucher_sessions import Voucher
from voucher_sessions.contrib.django import get_async_engine, get_engine

MASTER = os.getpid()


def echo(request: HttpRequest, code: str) -> JsonResponse:
    engine = get_engine()
    engine.put_voucher(Voucher(code=code, credits=len(code)))
    return JsonResponse({"code": engine.get_voucher(code).code, "credits": engine.get_voucher(code).credits.limit})


async def async_echo(request: HttpRequest, code: str) -> JsonResponse:
    engine = get_async_engine()
    await engine.put_voucher(Voucher(code=code, credits=len(code)))
    first, second = await asyncio.gather(engine.get_voucher(code), engine.get_voucher(code))
    return JsonResponse({"code": first.code, "credits": second.credits.limit})


urls.urlpatterns += [path("echo/<str:code>", echo), path("async-echo/<str:code>", async_echo)]

# In the master with --preload, otherwise in each worker. A thread is in a call whenever the workers are forked.
get_engine().put_voucher(Voucher(code="PRELOADED", quantity=1))
asyncio.run(get_async_engine().get_voucher("PRELOADED"))


def call_for_ever() -> None:
    while os.getpid() == MASTER:
        get_engine().get_voucher("PRELOADED")


if os.environ.get("CALL_FOR_EVER"):
    threading.Thread(target=call_for_ever, daemon=True).start()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        return start_response(status, [*headers, ("X-Process", f"{os.getpid()} {MASTER}")], *rest)

    return shop(environ, started)
