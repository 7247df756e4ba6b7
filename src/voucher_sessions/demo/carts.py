"""The demo's carts, the checkout that serves them, and what must be true when all is over.

``serve`` is the part to read first: it is what a host application does with the library.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum, auto
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

from voucher_sessions import (
    ActiveSession,
    Balance,
    LimitExceeded,
    OutcomeUnknown,
    Redemption,
    RedemptionNotFound,
    Voucher,
    VoucherSessions,
    VoucherState,
)

DISCOUNT: Final = "SALE-50"
GIFT_CARD: Final = "GIFT-CARD"
LOYALTY_CARD: Final = "LOYALTY"
CODES: Final = (DISCOUNT, GIFT_CARD, LOYALTY_CARD)

# The request bodies of the seed documents, as they stand there. All carts that send the second one name the same key:
# they are tabs of one customer, each overrides the lock of the last, and the one that redeems takes the lock along.
SESSIONS: Final[tuple[Mapping[str, object], ...]] = (
    {"type": "LOCK"},
    {"key": "ssn_yQGMTeKBSw8OOuFPwlBEjzGy8d8VA9Ts", "type": "LOCK"},
    {"type": "LOCK", "ttl": 7, "ttl_unit": "DAYS"},
)
ABANDONED_SECONDS: Final = 0.6
ABANDONED_SESSION: Final[Mapping[str, object]] = {"type": "LOCK", "ttl": ABANDONED_SECONDS, "ttl_unit": "SECONDS"}

RECEIPT_TTL_SECONDS: Final = 600  # receipts stay for good by default, and a demo should leave nothing behind


class Ending(StrEnum):
    """What a cart does once it has locked its voucher."""

    PAYS = auto()
    PAYS_TWICE = auto()
    CHANGES_AND_PAYS = auto()
    RELEASES = auto()
    ABANDONS = auto()
    STAYS = auto()


ENDINGS: Final = (
    *[Ending.PAYS] * 4,
    *[Ending.PAYS_TWICE] * 2,
    *[Ending.CHANGES_AND_PAYS] * 2,
    Ending.RELEASES,
    Ending.ABANDONS,
)


@dataclass(frozen=True, slots=True)
class Cart:
    """One customer's cart, as the parent plans it. ``seconds`` pass between the lock and what comes next."""

    order_id: str
    code: str
    credits: int
    points: int
    session: Mapping[str, object]
    ending: Ending
    seconds: float


class Step(StrEnum):
    """What a worker tells of a cart. The last step told is how it ended, except for REDEEMING: cut off in flight."""

    REDEEMING = auto()
    REDEEMED = auto()
    HELD = auto()
    USED_UP = auto()
    RELEASED = auto()
    ABANDONED = auto()
    LOCKED = auto()
    UNKNOWN = auto()


class Told(NamedTuple):
    """A message from a worker: a step of a cart, with what the engine answered."""

    cart: Cart
    step: Step
    session_key: str | None = None
    redemption: Redemption | None = None


def planned(count: int) -> list[Cart]:
    """The same carts in every run, so that the parent can ask for the receipt of each order in the end."""
    chance = random.Random(count)
    carts: list[Cart] = []
    for number in range(count):
        code, ending = CODES[number % 3], chance.choice(ENDINGS)
        if number in {1, 2}:
            ending = Ending.STAYS  # one for each card, so that something is locked when the books are audited
        cart = Cart(
            order_id=f"order-{number + 1:04}",
            code=code,
            credits=chance.randrange(5_00, 50_00) if code == GIFT_CARD else 0,
            points=chance.randrange(10, 500) if code == LOYALTY_CARD else 0,
            session=ABANDONED_SESSION if ending is Ending.ABANDONS else SESSIONS[number // 3 % 3],
            ending=ending,
            seconds=chance.uniform(0.020, 0.050),
        )
        carts.append(cart)
    return carts


def vouchers_for(carts: Sequence[Cart]) -> list[Voucher]:
    """A discount for 50, and two cards that hold two thirds of what the carts ask for: some are refused, late."""
    return [
        Voucher(code=DISCOUNT, quantity=50),
        Voucher(code=GIFT_CARD, credits=sum(cart.credits for cart in carts) * 2 // 3),
        Voucher(code=LOYALTY_CARD, points=sum(cart.points for cart in carts) * 2 // 3),
    ]


def work(url: str, prefix: str, carts: Sequence[Cart], tell: Connection) -> None:
    """A worker process: serves its carts one after the other with an engine of its own.

    A pipe of its own, too: what was written to it outlives this process, and a queue that workers share could be left
    locked by the one that is killed. A broken pipe means that the parent has gone, and then nobody needs the rest.
    """
    with (
        suppress(BrokenPipeError),
        VoucherSessions.from_url(url, prefix=prefix, receipt_ttl=RECEIPT_TTL_SECONDS) as engine,
    ):
        for cart in carts:
            for told in serve(engine, cart):
                tell.send(told)


def serve(engine: VoucherSessions, cart: Cart) -> Iterator[Told]:
    """One cart at the checkout, step by step."""
    try:
        answer = engine.validate(cart.code, credits=cart.credits, points=cart.points, session=cart.session)
        if answer.session is None or not answer.valid:
            yield _refused(cart, locked_by_others=answer.locked_by_others)
            return
        session_key = answer.session.key  # from now on the voucher is locked for this cart
        time.sleep(cart.seconds)
        if cart.ending is Ending.ABANDONS:
            yield Told(cart, Step.ABANDONED, session_key)
        elif cart.ending is Ending.STAYS:
            yield Told(cart, Step.LOCKED, session_key)
        elif cart.ending is Ending.RELEASES:
            engine.release(cart.code, session_key)
            yield Told(cart, Step.RELEASED)
        elif cart.ending is Ending.CHANGES_AND_PAYS:
            yield from _pay(engine, _changed(engine, cart, session_key), session_key)
        else:
            yield from _pay(engine, cart, session_key)
    except LimitExceeded as error:
        yield _refused(cart, locked_by_others=error.locked_by_others)
    except OutcomeUnknown:  # the connection failed; the parent will ask for the receipt
        yield Told(cart, Step.UNKNOWN)


def _refused(cart: Cart, *, locked_by_others: bool) -> Told:
    """'Held' may fit a little later, when a session of somebody else ends; 'used up' will not."""
    return Told(cart, Step.HELD if locked_by_others else Step.USED_UP)


def _changed(engine: VoucherSessions, cart: Cart, session_key: str) -> Cart:
    """The customer wants more: the same key again overrides the lock. Refused, it stays as it was, and so the cart."""
    larger = replace(cart, credits=cart.credits * 2, points=cart.points * 2)
    session = {**cart.session, "key": session_key}
    answer = engine.validate(cart.code, credits=larger.credits, points=larger.points, session=session)
    return larger if answer.valid else cart


def _pay(engine: VoucherSessions, cart: Cart, session_key: str) -> Iterator[Told]:
    """Redeem under the order id, so that a second click on 'pay' is answered with the first redemption.

    The amounts are named, and a session that is gone is no obstacle, because another tab may have taken the lock along.
    """
    for _ in range(2 if cart.ending is Ending.PAYS_TWICE else 1):
        yield Told(cart, Step.REDEEMING)
        redemption = engine.redeem(
            cart.code,
            credits=cart.credits,
            points=cart.points,
            session=session_key,
            redemption_id=cart.order_id,
            if_session_missing="redeem",
        )
        yield Told(cart, Step.REDEEMED, redemption=redemption)


@dataclass(slots=True)
class Ledger:
    """What the workers have told so far."""

    steps: dict[str, Step] = field(default_factory=dict[str, Step])
    redemptions: list[Redemption] = field(default_factory=list[Redemption])
    session_keys: dict[str, str] = field(default_factory=dict[str, str])

    def note(self, told: Told) -> None:
        """Write down one message."""
        self.steps[told.cart.order_id] = told.step
        if told.redemption is not None:
            self.redemptions.append(told.redemption)
        if told.session_key is not None:
            self.session_keys[told.cart.order_id] = told.session_key

    def served(self) -> int:
        """How many carts have come to an end."""
        return sum(step is not Step.REDEEMING for step in self.steps.values())

    def ended_as(self, step: Step) -> list[str]:
        """The order ids of the carts that ended so."""
        return [order_id for order_id, last in self.steps.items() if last is step]


@dataclass(frozen=True, slots=True)
class Books:
    """What Redis holds when all is over: the receipts are the truth, by order id."""

    states: dict[str, VoucherState]
    sessions: dict[str, list[ActiveSession]]
    receipts: dict[str, Redemption]

    @classmethod
    def read(cls, engine: VoucherSessions, carts: Iterable[Cart]) -> Books:
        """Ask for every voucher, every live session and the receipt of every order."""
        receipts: dict[str, Redemption] = {}
        for cart in carts:
            with suppress(RedemptionNotFound):
                receipts[cart.order_id] = engine.get_redemption(cart.code, cart.order_id)
        return cls(
            states={code: engine.get_voucher(code) for code in CODES},
            sessions={code: engine.list_sessions(code, limit=10_000) for code in CODES},
            receipts=receipts,
        )

    def live_keys(self) -> set[str]:
        """The keys of all live sessions."""
        return {session.key for sessions in self.sessions.values() for session in sessions}


def wait_for_expiry(engine: VoucherSessions) -> None:
    """Until the last abandoned session has expired; not for ever, should one fail to."""
    a_minute_ms = 60_000  # all sessions but the abandoned ones live for days
    deadline = time.monotonic() + ABANDONED_SECONDS + 1
    while time.monotonic() < deadline:
        soonest = [session for code in CODES for session in engine.list_sessions(code, limit=1)]
        if all(session.remaining_ms > a_minute_ms for session in soonest):
            return
        time.sleep(0.05)


class Check(NamedTuple):
    """Something that must be true, and what contradicts it."""

    text: str
    problems: list[str]


def audit(books: Books, looks: Sequence[VoucherState], ledger: Ledger) -> list[Check]:
    """The invariants: what the workers were told and what the parent saw, against what Redis holds."""
    paid_again = sum(redemption.replayed for redemption in ledger.redemptions)
    abandoned, locked = len(ledger.ended_as(Step.ABANDONED)), len(ledger.ended_as(Step.LOCKED))
    return [
        Check(f"used + locked stayed within the limit, {len(looks)} looks while it ran", list(_over_limit(looks))),
        Check("nothing was ever negative", list(_negative(looks))),
        Check("used is what the receipts add up to", list(_wrong_used(books))),
        Check("locked is what the live sessions add up to", list(_wrong_locked(books))),
        Check("each redemption that a cart was told of has its receipt", list(_without_receipt(books, ledger))),
        Check("each receipt belongs to a cart that paid", list(_not_paid(books, ledger))),
        Check(f"no order was redeemed twice, {paid_again} second payments were replays", list(_twice(ledger))),
        Check(f"{abandoned} abandoned sessions have expired, {locked} others are live", list(_in_error(books, ledger))),
    ]


def balances(state: VoucherState) -> dict[str, Balance]:
    """The three balances of a voucher."""
    return {"quantity": state.quantity, "credits": state.credits, "points": state.points}


def _over_limit(looks: Iterable[VoucherState]) -> Iterator[str]:
    for state in looks:
        for name, balance in balances(state).items():
            if balance.limit is not None and balance.used + balance.locked > balance.limit:
                yield f"{state.code} {name}: {balance.used} used + {balance.locked} locked of {balance.limit}"


def _negative(looks: Iterable[VoucherState]) -> Iterator[str]:
    for state in looks:
        for name, balance in balances(state).items():
            if min(balance.used, balance.locked, balance.available or 0) < 0:
                yield f"{state.code} {name}: {balance}"


def _total(parts: Iterable[Redemption | ActiveSession]) -> tuple[int, int, int]:
    quantity = credits = points = 0
    for part in parts:
        quantity, credits, points = quantity + part.quantity, credits + part.credits, points + part.points
    return quantity, credits, points


def _wrong_used(books: Books) -> Iterator[str]:
    for code, state in books.states.items():
        used = state.quantity.used, state.credits.used, state.points.used
        taken = _total(receipt for receipt in books.receipts.values() if receipt.code == code)
        if used != taken:
            yield f"{code}: quantity, credits, points used {used}, on receipts {taken}"


def _wrong_locked(books: Books) -> Iterator[str]:
    for code, state in books.states.items():
        locked = state.quantity.locked, state.credits.locked, state.points.locked
        live = _total(books.sessions[code])
        if locked != live:
            yield f"{code}: quantity, credits, points locked {locked}, by live sessions {live}"


def _without_receipt(books: Books, ledger: Ledger) -> Iterator[str]:
    for told in ledger.redemptions:
        receipt = books.receipts.get(told.id)
        if receipt is None or receipt != told.model_copy(update={"replayed": False}):
            yield f"{told.id}: told {told}, receipt {receipt}"


def _not_paid(books: Books, ledger: Ledger) -> Iterator[str]:
    """An order cut off in flight may have its receipt or not: that is what 'unknown' means."""
    for order_id in books.receipts:
        step = ledger.steps.get(order_id)
        if step not in {Step.REDEEMED, Step.REDEEMING, Step.UNKNOWN}:
            yield f"{order_id}: {step}"


def _twice(ledger: Ledger) -> Iterator[str]:
    taken = Counter(redemption.id for redemption in ledger.redemptions if not redemption.replayed)
    for order_id, times in taken.items():
        if times > 1:
            yield f"{order_id}: redeemed {times} times"


def _in_error(books: Books, ledger: Ledger) -> Iterator[str]:
    live = books.live_keys()
    for order_id in ledger.ended_as(Step.ABANDONED):
        if ledger.session_keys[order_id] in live:
            yield f"{order_id}: its session is still live"
    for order_id in ledger.ended_as(Step.LOCKED):
        if ledger.session_keys[order_id] not in live:
            yield f"{order_id}: its session is gone"
