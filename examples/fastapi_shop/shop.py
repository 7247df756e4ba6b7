"""A shop with one page. It has one coupon left, which pays for a whole cart.

    GET  /                the cart: is the coupon free, mine, or held by another customer, and for how long?
    POST /coupon          lock the coupon for this cart
    POST /coupon/return   release it
    POST /order           redeem it
    POST /cart            begin a new cart

Each POST changes something in Redis and sends the browser back to the page. The page shows what Redis says, so it is
the same in every tab, and a click that is repeated changes nothing. The browser keeps a random number in a cookie, and
the session key and the redemption id are made from it on the server.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated, Final, Literal, NamedTuple

from fastapi import APIRouter, Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from voucher_sessions import (
    AsyncVoucherSessions,
    LimitExceeded,
    RedemptionNotFound,
    RedemptionRolledBack,
    ServerUnavailable,
    SessionNotFound,
    Voucher,
    VoucherNotFound,
    VoucherSessionsError,
)

COUPON: Final = Voucher(code="LAST-ONE", quantity=1)
URL: Final = os.environ.get("VOUCHER_SESSIONS_URL", "embedded://")

logger = logging.getLogger(__name__)
templates = Jinja2Templates(Path(__file__).parent)  # escapes what it puts into the HTML
pages = APIRouter()


class Offer(NamedTuple):
    """What the page says about the coupon; and, if somebody has it, for how long."""

    state: Literal["free", "mine", "held", "gone", "ordered", "cancelled", "unreachable", "unchanged", "unknown"]
    milliseconds: int = 0


def create_shop(url: str = URL, *, hold_seconds: int = 120) -> FastAPI:
    """The shop, with its coupon in the Redis of a URL. A cart keeps the coupon for so many seconds at most."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        # While Redis is away, no customer waits longer than about two seconds: three tries, and pauses between them.
        retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.2), 2)
        async with AsyncVoucherSessions.from_url(
            url, max_ttl=hold_seconds, retry=retry, socket_timeout=0.5, socket_connect_timeout=0.5
        ) as engine:
            await engine.put_voucher(COUPON, if_exists="keep")  # a restart changes nothing
            app.state.engine, app.state.hold_seconds = engine, hold_seconds
            yield

    app = FastAPI(title="A shop", lifespan=lifespan, openapi_url=None)
    app.include_router(pages)
    for error in (VoucherSessionsError, RedisError):
        app.add_exception_handler(error, show_trouble)
    return app


async def engine_of(request: Request) -> AsyncVoucherSessions:
    """The engine of the application, one for the whole process."""
    engine: AsyncVoucherSessions = request.app.state.engine
    return engine


async def cart_of(cart: Annotated[str, Cookie()] = "") -> str:
    """The cart of this browser. Without one there is nothing to change, and the page gives it one."""
    if not cart:
        raise HTTPException(303, headers={"Location": "/"})
    return cart


Engine = Annotated[AsyncVoucherSessions, Depends(engine_of)]
Cart = Annotated[str, Depends(cart_of)]


def session_key(cart: str) -> str:
    """Who sees this key in Redis cannot make the cookie from it."""
    return "cart-" + sha256(f"session of {cart}".encode()).hexdigest()


def order_id(cart: str) -> str:
    """The redemption id: a cart is ordered once, in however many tabs and with however many clicks."""
    return "order-" + sha256(f"order of {cart}".encode()).hexdigest()


async def offer_to(cart: str, engine: AsyncVoucherSessions) -> Offer:
    """What this cart can do with the coupon. It changes nothing."""
    try:
        order = await engine.get_redemption(COUPON.code, order_id(cart))
        return Offer("cancelled" if order.rolled_back else "ordered")
    except RedemptionNotFound:
        pass
    try:
        session = await engine.get_session(COUPON.code, session_key(cart))
        return Offer("mine", session.remaining_ms)
    except (SessionNotFound, VoucherNotFound):
        pass
    validation = await engine.validate(COUPON.code)
    if validation.retry_after_ms is not None:
        return Offer("held", validation.retry_after_ms)
    return Offer("free" if validation.valid else "gone")


def page(request: Request, offer: Offer, status: int = 200) -> Response:
    """The page. Browsers do not keep it: in a moment it may be wrong."""
    headers = {"Cache-Control": "no-store"} | ({"Retry-After": "5"} if status == 503 else {})
    return templates.TemplateResponse(request, "shop.html", offer._asdict(), status, headers)


def back_to_the_page() -> Response:
    """The answer to each POST: to load the page again does not send the form again."""
    return RedirectResponse("/", 303)


@pages.get("/")
async def show(request: Request, engine: Engine, cart: Annotated[str, Cookie()] = "") -> Response:
    """Show the cart. A browser without a cart gets one."""
    known = cart or token_urlsafe(24)
    response = page(request, await offer_to(known, engine))
    if not cart:  # SameSite: the forms of other sites are sent without the cookie
        response.set_cookie("cart", known, httponly=True, samesite="lax", secure=request.url.scheme == "https")
    return response


@pages.post("/coupon")
async def lock(engine: Engine, cart: Cart) -> Response:
    """Lock the coupon for the cart. A second click does not prolong it: others have been told when it ends."""
    if (await offer_to(cart, engine)).state == "free":
        await engine.validate(COUPON.code, session={"type": "LOCK", "key": session_key(cart)})
    return back_to_the_page()


@pages.post("/coupon/return")
async def release(engine: Engine, cart: Cart) -> Response:
    """Give the coupon back before its time."""
    await engine.release(COUPON.code, session_key(cart))
    return back_to_the_page()


@pages.post("/order")
async def order(engine: Engine, cart: Cart) -> Response:
    """Order the cart with the coupon. Customers who took longer than the lock get it if it is still free."""
    with suppress(LimitExceeded, RedemptionRolledBack, VoucherNotFound):  # nothing was ordered, and the page says why
        await engine.redeem(
            COUPON.code, session=session_key(cart), redemption_id=order_id(cart), if_session_missing="redeem"
        )
    return back_to_the_page()


@pages.post("/cart")
async def begin_again() -> Response:
    """Forget the cart. The page gives the browser another."""
    response = back_to_the_page()
    response.delete_cookie("cart")
    return response


async def show_trouble(request: Request, error: Exception) -> Response:
    """Say what is known. After ``ServerUnavailable`` nothing has changed; after other errors it may have."""
    logger.warning("%s: %s", type(error).__name__, error)
    if request.method == "GET":  # it may follow a POST that has changed something
        return page(request, Offer("unreachable"), 503)
    return page(request, Offer("unchanged" if isinstance(error, ServerUnavailable) else "unknown"), 503)
