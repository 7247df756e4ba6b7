"""``serve``: runs the application of ``create_app`` with uvicorn. The command line uses it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from ipaddress import ip_address
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from voucher_sessions import InvalidRequest
from voucher_sessions.contrib.fastapi.application import create_app, only_value
from voucher_sessions.contrib.fastapi.problems import Problem

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::\d+)?", re.ASCII)


def serve(
    url: str,
    *,
    api_keys: Mapping[str, str] | None,
    host: str = "127.0.0.1",
    port: int = 8000,
    prefix: str = "vs",
    partition: Callable[[str], str] | None = None,
    default_ttl: float | timedelta | None = None,
    max_ttl: float | timedelta | None = None,
) -> None:
    """Serve the vouchers of a Redis server over HTTP, until the process gets SIGINT or SIGTERM.

    Without keys it listens only on loopback, and answers only requests for ``localhost`` or a loopback address, and
    none that a browser sends for a page from elsewhere.

    It writes no access log: the path of a released session has its key. Put a proxy with TLS in front of it if other
    machines are to reach it.

    Args:
        url: Where the vouchers are, as in ``AsyncVoucherSessions.from_url``.
        api_keys: The token of each app id. None: everybody on this machine can redeem vouchers.
        host: The address to listen on.
        port: The port to listen on; 0: any unused port, which the log names.
        prefix: The beginning of all keys in Redis.
        partition: As in ``AsyncVoucherSessions``, if the other engines of the prefix have one.
        default_ttl: Seconds, or a timedelta: how long a session lives that names no ``ttl``. None: 7 days, or
            ``max_ttl`` if that is shorter.
        max_ttl: Seconds, or a timedelta: the longest time to live that a session may ask for. None: 3,650 days.

    Raises:
        InvalidRequest: A parameter is wrong, or there are no keys and ``host`` is not loopback.
    """
    import uvicorn

    if api_keys is None and not _is_loopback(host):
        raise InvalidRequest("host", "must be a loopback address such as 127.0.0.1, since there are no api_keys")
    app = create_app(
        url, api_keys=api_keys, prefix=prefix, partition=partition, default_ttl=default_ttl, max_ttl=max_ttl
    )
    if api_keys is None:
        app.add_middleware(LoopbackNames)
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False)


class LoopbackNames:
    """ASGI middleware: answers 400 to each request whose ``Host`` or ``Origin`` is neither ``localhost`` nor a loopback address.

    Otherwise a page in a browser on this machine could send requests: by a domain that its owner lets resolve to a
    loopback address (DNS rebinding), or a rollback, as a form without a body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif not _is_loopback(_host_name(only_value(scope, "Host"))):
            problem = Problem(status=400, key="invalid_host", details="Use 127.0.0.1 or localhost in the URL.")
            await problem.response(scope, receive, send)
        elif not _is_sent_from_loopback(scope):
            problem = Problem(status=400, key="invalid_origin", details="The page that sends this is from elsewhere.")
            await problem.response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_sent_from_loopback(scope: Scope) -> bool:
    """Whether no browser has sent the request for a page from elsewhere. Browsers name the page; programs do not."""
    if not any(key.lower() == b"origin" for key, _ in scope["headers"]):
        return True
    scheme, _, host = only_value(scope, "Origin").partition(b"://")
    return scheme in (b"http", b"https") and _is_loopback(_host_name(host))


def _host_name(header: bytes) -> str:
    """The name in a header, without the port; empty if there is none."""
    found = _HOST.fullmatch(header.decode("latin-1"))
    return (found[1] or found[2]).lower() if found else ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
