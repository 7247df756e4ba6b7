"""What an application does with the library: validate with a session, then redeem, release or abandon it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum, auto
from typing import NamedTuple

from voucher_sessions import LimitExceeded, OutcomeUnknown, Redemption, ServerUnavailable, VoucherSessions
from voucher_sessions.demo.carts import Cart, Ending


class Status(StrEnum):
    """What has become of a cart. If REDEEMING is the last one reported, the worker ended before it got a reply."""

    REDEEMING = auto()
    REDEEMED = auto()
    LOCKED_BY_OTHERS = auto()
    USED_UP = auto()
    RELEASED = auto()
    ABANDONED = auto()
    KEPT_LOCKED = auto()
    UNKNOWN = auto()


class Report(NamedTuple):
    """A message from a worker: a cart's new status, and what the engine returned."""

    cart: Cart
    status: Status
    session_key: str | None = None
    redemption: Redemption | None = None


def serve(engine: VoucherSessions, cart: Cart) -> Iterator[Report]:
    """Serve one cart and report each step."""
    try:
        validation = engine.validate(cart.code, credits=cart.credits, points=cart.points, session=cart.session)
        if validation.session is None or not validation.valid:
            yield _refused(cart, locked_by_others=validation.locked_by_others)
            return
        session_key = validation.session.key  # the voucher is now locked for this cart
        time.sleep(cart.seconds)
        if cart.ending is Ending.ABANDONS:
            yield Report(cart, Status.ABANDONED, session_key)
        elif cart.ending is Ending.KEEPS_LOCK:
            yield Report(cart, Status.KEPT_LOCKED, session_key)
        elif cart.ending is Ending.RELEASES:
            engine.release(cart.code, session_key)
            yield Report(cart, Status.RELEASED)
        elif cart.ending is Ending.CHANGES_AND_PAYS:
            yield from _pay(engine, _with_larger_amounts(engine, cart, session_key), session_key)
        else:
            yield from _pay(engine, cart, session_key)
    except LimitExceeded as error:
        yield _refused(cart, locked_by_others=error.locked_by_others)
    except (OutcomeUnknown, ServerUnavailable):  # the connection failed; the parent will ask for the receipt
        yield Report(cart, Status.UNKNOWN)


def _refused(cart: Cart, *, locked_by_others: bool) -> Report:
    """A refusal because of other sessions' locks may be granted later, when one of them ends; one of 'used up' not."""
    return Report(cart, Status.LOCKED_BY_OTHERS if locked_by_others else Status.USED_UP)


def _with_larger_amounts(engine: VoucherSessions, cart: Cart, session_key: str) -> Cart:
    """Double the amounts under the same session key, which overrides the lock.

    A refusal leaves the lock as it was, so the cart stays as it was too.
    """
    larger = replace(cart, credits=cart.credits * 2, points=cart.points * 2)
    session = {**cart.session, "key": session_key}
    validation = engine.validate(cart.code, credits=larger.credits, points=larger.points, session=session)
    return larger if validation.valid else cart


def _pay(engine: VoucherSessions, cart: Cart, session_key: str) -> Iterator[Report]:
    """Redeem under the order id, so that a second click on 'pay' returns the first redemption.

    Another browser tab may have redeemed the session already. The call therefore names its amounts and redeems without
    the session if that is no longer live.
    """
    for _ in range(2 if cart.ending is Ending.PAYS_TWICE else 1):
        yield Report(cart, Status.REDEEMING)
        redemption = engine.redeem(
            cart.code,
            credits=cart.credits,
            points=cart.points,
            session=session_key,
            redemption_id=cart.order_id,
            if_session_missing="redeem",
        )
        yield Report(cart, Status.REDEEMED, redemption=redemption)
