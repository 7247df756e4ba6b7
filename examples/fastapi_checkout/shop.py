"""A shop in FastAPI. Customers use its checkout; its other programs, such as a till, use the vouchers' API.

    POST   /carts/{cart}/gift-card    lock credits of a gift card for a cart, for 15 minutes
    DELETE /carts/{cart}/gift-card    release them
    POST   /carts/{cart}/payment      redeem them for the order
    /vouchers/v1/...                  the API of ``create_router``, with a token

The shop does not show session keys. A customer knows only the name of the cart, which is a secret of the browser.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from hmac import compare_digest
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, Field

from voucher_sessions import AsyncVoucherSessions
from voucher_sessions.contrib.fastapi import create_router, install_error_handlers


class GiftCard(BaseModel):
    """A gift card that a customer enters, and how many of its credits to use."""

    code: str
    credits: int = Field(gt=0)


class Payment(GiftCard):
    """What a customer pays with a gift card."""

    order: str


class Locked(BaseModel):
    """What the cart has locked. If it is nothing: whether others have it, and for how long."""

    valid: bool
    available: int
    locked_until: datetime | None
    locked_by_others: bool
    retry_after_ms: int | None


class Paid(BaseModel):
    """What a gift card has paid."""

    order: str
    credits: int


async def engine_of(request: Request) -> AsyncVoucherSessions:
    """The engine of the application, one for the whole process."""
    engine: AsyncVoucherSessions = request.app.state.engine
    return engine


Engine = Annotated[AsyncVoucherSessions, Depends(engine_of)]


def create_shop(url: str, *, till_token: str) -> FastAPI:
    """The shop, with its vouchers at a URL. Programs that know the token can use the API."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncVoucherSessions.from_url(url, max_ttl=15 * 60) as app.state.engine:
            yield

    def check_token(authorization: Annotated[str, Header()] = "") -> None:
        if not compare_digest(authorization.encode(), f"Bearer {till_token}".encode()):
            raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})

    app = FastAPI(title="A shop", lifespan=lifespan)
    install_error_handlers(app)
    app.include_router(create_router(engine_of), prefix="/vouchers", dependencies=[Depends(check_token)])
    app.add_api_route("/carts/{cart}/gift-card", lock, methods=["POST"])
    app.add_api_route("/carts/{cart}/gift-card", release, methods=["DELETE"], status_code=204)
    app.add_api_route("/carts/{cart}/payment", pay, methods=["POST"])
    return app


async def lock(cart: str, card: GiftCard, engine: Engine) -> Locked:
    """Lock credits of a gift card for a cart."""
    validation = await engine.validate(card.code, credits=card.credits, session={"type": "LOCK", "key": f"cart-{cart}"})
    return Locked(
        valid=validation.valid,
        available=validation.available.credits,
        locked_until=validation.session.expires_at if validation.session else None,
        locked_by_others=validation.locked_by_others,
        retry_after_ms=validation.retry_after_ms,
    )


async def release(cart: str, code: str, engine: Engine) -> None:
    """Release what a cart has locked of a gift card."""
    await engine.release(code, f"cart-{cart}")


async def pay(cart: str, payment: Payment, engine: Engine) -> Paid:
    """Redeem the gift card for the order. If the customer pays again, the order is paid once.

    If the lock has expired, the order gets what nobody else has locked. If that is not enough, the error handlers
    answer what is available, and when.
    """
    redemption = await engine.redeem(
        payment.code,
        credits=payment.credits,
        session=f"cart-{cart}",
        redemption_id=payment.order,
        if_session_missing="redeem",
    )
    return Paid(order=redemption.id, credits=redemption.credits)
