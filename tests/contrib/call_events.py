"""Call events made by hand: of one call, and of any call that can be, with secrets that nobody must see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, get_args

from hypothesis import strategies as st

from voucher_sessions import (
    CallEvent,
    InvalidRequest,
    NotDurable,
    OutcomeUnknown,
    QuantityExceeded,
    Release,
    ServerRefused,
    ServerUnavailable,
    SessionNotFound,
    VoucherNotFound,
)
from voucher_sessions.errors import shortened
from voucher_sessions.events import Outcome

OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
SUCCESSES: Final = {"ok", "replayed"}
TROUBLE: Final = {"not_durable", "unknown", "unavailable", "server_refused", "corrupt"}

REDEEMED: Final = CallEvent(
    verb="redeem",
    codes=("GIFT-50",),
    outcome="ok",
    reason=None,
    locked_by_others=False,
    credits=3000,
    points=0,
    redemption_id="order-1001",
    session_key="ssn_aBcD…",
    seconds=0.0004,
    error=None,
)
REFUSED: Final = replace(
    REDEEMED,
    outcome="held",
    reason="quantity_exceeded",
    locked_by_others=True,
    error=QuantityExceeded("GIFT-50", "quantity_exceeded", 1, 0, True, 500),
)
UNAVAILABLE: Final = replace(
    REDEEMED, outcome="unavailable", error=ServerUnavailable("redeem", ["GIFT-50"], "Connection refused")
)


@dataclass(frozen=True)
class SecretCall:
    """The event of a call, and what was secret in it."""

    event: CallEvent
    session_key: str
    password: str


# Letters that nothing else in an event has, so that they are found wherever they are shown.
_session_keys: Final = st.text("κλμνξο", min_size=9, max_size=40)
_passwords: Final = st.text("πρστυφ", min_size=3, max_size=20)
_texts: Final = st.text(st.characters(codec="ascii"), min_size=1, max_size=20)
_amounts: Final = st.none() | st.integers(0, 2**53 - 1)


@st.composite
def secret_calls(draw: st.DrawFn) -> SecretCall:
    """Any event of a call with a session, on a server with a password."""
    key, password = draw(_session_keys), draw(_passwords)
    verb = draw(st.sampled_from(["validate", "redeem_stack", "release", "get_session", "ping"]))
    codes = tuple(draw(st.lists(_texts, max_size=3)))
    event = CallEvent(
        verb=verb,
        codes=codes,
        outcome=draw(st.sampled_from(OUTCOMES)),
        reason=draw(st.sampled_from([None, "quantity_exceeded", "not_found"])),
        locked_by_others=draw(st.booleans()),
        credits=draw(_amounts),
        points=draw(_amounts),
        redemption_id=draw(st.none() | _texts),
        session_key=draw(st.sampled_from([None, shortened(key)])),
        seconds=draw(st.floats(0, 100)),
        error=draw(st.sampled_from(_errors(verb, codes or ("A",), key, password))),
    )
    return SecretCall(event, key, password)


def _errors(verb: str, codes: tuple[str, ...], key: str, password: str) -> list[BaseException | None]:
    """What a call can raise; each error, or its cause, has a secret somewhere."""
    url = f"redis://user:{password}@localhost:6379/0"
    errors: list[BaseException] = [
        SessionNotFound(key, *codes),
        VoucherNotFound(*codes),
        OutcomeUnknown(verb, codes, session_key=key, redemption_id="order"),
        NotDurable(verb, "no replica", Release(code=codes[0], session_key=key, released=True, ended=False)),
        ServerUnavailable(verb, codes, f"no credentials from {url}"),
        ServerRefused(verb, codes, "OOM", "Its memory is full"),
        InvalidRequest("session.ttl", "must be positive"),
        # Of a loader, a credential provider or redis-py
        ConnectionError(url),
        ValueError(f"password {password}, session {key}"),
        KeyError(key, password),
        KeyboardInterrupt(),
    ]
    for error in errors:
        error.__cause__ = ValueError(url, key)
    return [None, *errors]
