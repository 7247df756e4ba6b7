"""What is compared: each contender keeps gift cards, in a file of its own that a reader can judge.

All do the same: a card has credits; a lock takes some of them until it is redeemed, released, or has expired; nothing
is granted beyond the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

CREDITS = 10**9  # of every card
AMOUNT = 5  # of every lock
OTHER_AMOUNT = 7  # of a lock that is overridden
TTL_MINUTES = 15

VALIDATE, LOCK, OVERRIDE, REDEEM_SESSION, RELEASE, REDEEM, STATE = VERBS = (
    "validate, no session",
    "validate, new lock",
    "validate, override",
    "redeem with session",
    "release",
    "redeem, no session",
    "get_voucher",
)


@dataclass(frozen=True)
class Contender:
    """A way to keep gift cards. A verb takes the card's code and a session's key; not every contender has all."""

    name: str
    put: Callable[[Iterable[str]], object]
    verbs: Mapping[str, Callable[[str, str], object]]
    scripted: bool = False  # each call is one EVALSHA
    close: Callable[[], object] = lambda: None


def must(granted: object) -> None:
    """A contender that grants nothing would be fast."""
    if not granted:
        raise RuntimeError("refused, though the card has enough")
