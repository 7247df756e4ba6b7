"""``serve``: runs the application of ``create_app`` with uvicorn. The command line uses it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address

from starlette.middleware.trustedhost import TrustedHostMiddleware

from voucher_sessions import InvalidRequest
from voucher_sessions.contrib.fastapi.application import create_app


def serve(
    url: str,
    *,
    api_keys: Mapping[str, str] | None,
    host: str = "127.0.0.1",
    port: int = 8000,
    prefix: str = "vs",
    default_ttl: float | timedelta | None = None,
    max_ttl: float | timedelta | None = None,
) -> None:
    """Serve the vouchers of a Redis server over HTTP, until the process gets SIGINT or SIGTERM.

    Without keys it listens on loopback alone, and answers only requests for a name of this machine, so that no page in
    a browser can reach it by another name.

    It writes no access log: the path of a released session has its key. Put a proxy with TLS in front of it if other
    machines are to reach it.

    Args:
        url: Where the vouchers are, as in ``AsyncVoucherSessions.from_url``.
        api_keys: The token of each app id. None: everybody on this machine can redeem vouchers.
        host: The address to listen on.
        port: The port to listen on; 0: any that is free, which the log names.
        prefix: The beginning of all keys in Redis.
        default_ttl: Seconds, or a timedelta: how long a session lives that names no ``ttl``. None: 7 days, or
            ``max_ttl`` if that is shorter.
        max_ttl: Seconds, or a timedelta: the longest time to live that a session may ask for. None: 3,650 days.

    Raises:
        InvalidRequest: A parameter is wrong, or there are no keys and ``host`` is not loopback.
    """
    import uvicorn

    if api_keys is None and not _is_loopback(host):
        raise InvalidRequest("host", "must be a loopback address such as 127.0.0.1, since there are no api_keys")
    app = create_app(url, api_keys=api_keys, prefix=prefix, default_ttl=default_ttl, max_ttl=max_ttl)
    if api_keys is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
