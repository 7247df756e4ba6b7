"""What the benchmarks compare: the interface of a contender, its verbs, and the amounts that all contenders use.

Each contender keeps gift cards, in a module of its own. All do the same work: a card has credits; a lock takes some of
them until it is redeemed, is released, or expires; nothing is granted beyond the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from benchmarks import loops
from benchmarks.loops import Elapsed, Load, SessionCall

CREDITS = 10**9  # of every card
AMOUNT = 5  # of every lock
OTHER_AMOUNT = 7  # of a lock that is overridden
TTL_MINUTES = 15


class Verb(StrEnum):
    """What a contender can do, by the names that the tables show, in their order."""

    VALIDATE = "validate, no session"
    LOCK = "validate, new lock"
    OVERRIDE = "validate, override"
    REDEEM_SESSION = "redeem with session"
    RELEASE = "release"
    REDEEM = "redeem, no session"
    STATE = "get_voucher"


# The life of a session, for the axes that do not measure all verbs.
SESSION_VERBS: Final = (Verb.VALIDATE, Verb.LOCK, Verb.OVERRIDE, Verb.REDEEM_SESSION, Verb.RELEASE)


@dataclass(frozen=True)
class Contender:
    """A way to keep gift cards. A verb takes the code of a card and a session key; some contenders lack some verbs."""

    name: str
    put: Callable[[Iterable[str]], object]
    verbs: Mapping[Verb, Callable[[str, str], object]]
    scripted: bool = False  # each call is one EVALSHA
    close: Callable[[], object] = lambda: None

    def repeated(self, verb: Verb, calls: Sequence[SessionCall]) -> Elapsed:
        """The time of calls, one after the other."""
        return loops.repeated(self.verbs[verb], calls)

    def under_load(self, load: Load) -> float:
        """Calls a second, locking and releasing."""
        return loops.under_load(self.verbs[Verb.LOCK], self.verbs[Verb.RELEASE], load)


def must(granted: object) -> None:
    """Stop the benchmark if a call was refused: a refusal is faster than a lock, and would falsify the figures."""
    if not granted:
        raise RuntimeError("refused, though the card has enough")
