"""``create_app``: an application that offers the vouchers of a Redis server over HTTP, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

import voucher_sessions
from voucher_sessions import AsyncVoucherSessions, InvalidRequest
from voucher_sessions.contrib.fastapi.problems import Problem
from voucher_sessions.contrib.fastapi.router import create_router

_APP_ID, _APP_TOKEN = "X-App-Id", "X-App-Token"
_SCHEMES: Final = {
    "AppId": {"type": "apiKey", "in": "header", "name": _APP_ID},
    "AppToken": {"type": "apiKey", "in": "header", "name": _APP_TOKEN},
}
_DESCRIPTION: Final = """\
Lock vouchers, gift cards and loyalty cards for a cart, and redeem them exactly once.

1. **Validate** with a session while the customer shops: the vouchers are locked for this cart until the session expires.
2. **Redeem** when the customer has paid. With the id of the order, a repeated request does not redeem twice.
3. **Release** the session if the customer empties the cart, or let it expire.
4. **Roll back** after a refund.
"""


def create_app(
    url: str,
    *,
    api_keys: Mapping[str, str] | None,
    prefix: str = "vs",
    partition: Callable[[str], str] | None = None,
    default_ttl: float | timedelta | None = None,
    max_ttl: float | timedelta | None = None,
) -> FastAPI:
    """Create an application that offers the vouchers of a Redis server over HTTP.

    It has the endpoints of ``create_router``. Except for its documentation (``/docs``, ``/redoc``, ``/openapi.json``),
    each request needs the headers ``X-App-Id`` and ``X-App-Token``; without them it is answered with 401 before its
    body is read. The engine is ``app.state.voucher_sessions``; it is closed when the application ends.

    Args:
        url: Where the vouchers are, as in ``AsyncVoucherSessions.from_url``.
        api_keys: The token of each app id. None: everybody who can reach the application can redeem vouchers.
        prefix: The beginning of all keys in Redis.
        partition: As in ``AsyncVoucherSessions``, if the other engines of the prefix have one.
        default_ttl: Seconds, or a timedelta: how long a session lives that names no ``ttl``. None: 7 days, or
            ``max_ttl`` if that is shorter.
        max_ttl: Seconds, or a timedelta: the longest time to live that a session may ask for. None: 3,650 days.

    Raises:
        InvalidRequest: A parameter is wrong: also if ``api_keys`` is empty, or if an id or a token is empty or cannot
            be sent as a header.
    """
    checked = None if api_keys is None else _checked(api_keys)
    engine = AsyncVoucherSessions.from_url(
        url, prefix=prefix, partition=partition, default_ttl=default_ttl, max_ttl=max_ttl
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with engine:
            yield

    app = _Application(
        title="Voucher sessions", version=voucher_sessions.__version__, description=_DESCRIPTION, lifespan=lifespan
    )
    app.state.voucher_sessions = engine
    app.include_router(create_router(engine))
    if checked is not None:
        app.has_keys = True
        public = {app.docs_url, app.swagger_ui_oauth2_redirect_url, app.redoc_url, app.openapi_url}
        app.add_middleware(ApiKeys, api_keys=checked, public=public)
    return app


class _Application(FastAPI):
    """An application whose page says which headers it needs."""

    has_keys = False

    def openapi(self) -> dict[str, Any]:
        """The description of the API."""
        schema = super().openapi()
        if self.has_keys:
            schema["components"]["securitySchemes"] = _SCHEMES
            schema["security"] = [{name: [] for name in _SCHEMES}]
        return schema


def _checked(api_keys: Mapping[str, str]) -> dict[str, str]:
    """The api keys. Refuses empty ones: a variable that is not set must not give access to everybody."""
    checked = dict(api_keys)
    if not checked:
        raise InvalidRequest("api_keys", "has no app id: nobody could send a request. None lets everybody in")
    for app_id, token in checked.items():
        if not _can_be_sent(app_id):
            raise InvalidRequest("api_keys", f"has an app id that cannot be sent in a header: {app_id!r}")
        if not _can_be_sent(token):
            raise InvalidRequest("api_keys", f"has a token for {app_id!r} that is empty, or cannot be sent in a header")
    return checked


def _can_be_sent(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isprintable() and text == text.strip() != ""


class ApiKeys:
    """ASGI middleware: answers 401 to each request that has no valid ``X-App-Id`` and ``X-App-Token``.

    An unknown app id takes as long as a wrong token: both are compared, as digests of one length, with all that are
    known.
    """

    def __init__(self, app: ASGIApp, api_keys: Mapping[str, str], public: set[str | None]) -> None:
        self._app = app
        self._digests = [(_digest(app_id.encode()), _digest(token.encode())) for app_id, token in api_keys.items()]
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan" or scope["path"] in self._public or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        problem = Problem(status=401, key="unauthorized", details=f"Send valid headers {_APP_ID} and {_APP_TOKEN}.")
        response = problem.response
        response.headers["WWW-Authenticate"] = _APP_TOKEN
        await response(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        app_id, token = _digest(only_value(scope, _APP_ID)), _digest(only_value(scope, _APP_TOKEN))
        found = False
        for known_id, known_token in self._digests:  # all of them, even after a match
            found |= compare_digest(app_id, known_id) & compare_digest(token, known_token)
        return found


def only_value(scope: Scope, name: str) -> bytes:
    """The value of a header; empty if there is none or more than one, since another program may take the other."""
    values = [value for key, value in scope["headers"] if key.lower() == name.lower().encode()]
    return values[0] if len(values) == 1 else b""


def _digest(text: bytes) -> bytes:
    return sha256(text).digest()
