"""The names of all keys, built in one place.

    prefix:{CODE}                    STRING  the book: limits, used, the totals of the locks    stays
    prefix:{CODE}:locks              ZSET    of two locks or more: amounts and session key,     expires with its last lock*
                                             by expiry in ms
    prefix:{CODE}:session:<key>      STRING  the lock of one session                            expires with it
    prefix:{CODE}:redemption:<id>    STRING  the receipt of one redemption                      stays, or receipt_ttl
    prefix:{CODE}:fence              STRING  what WAIT waits for, where there is a durability=          a second
    prefix:partition                 STRING  the fingerprint of partition, on clusters          stays
    prefix:probe{TAG}                        what check_server tries commands on                is never there

(* a minute later if it is large, for a call to take it away without holding up the server.)

The braces make a voucher one hash slot of a cluster; with a partition it is ``prefix:{PARTITION}{CODE}…``. Braces
inside a code are escaped, so a code ends at its brace and what follows can be any text: no code, session key or
redemption id reaches another voucher's keys.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from redis.crc import key_slot

from voucher_sessions.errors import CrossSlotStack, InvalidRequest
from voucher_sessions.models import Checked, Text

_check_text = Checked(Text)

# Codes that tell apart what partitions are usually made of: a part up to a separator, a length, a case, digits.
_PROBES: Final = (
    *("A", "a", "7", "GIFT-50", "gift-50", "GIFT_50", "GIFT.50", "GIFT:50", "GIFT/50", "GIFT 50", "GIFT50", "50-GIFT"),
    *("ann-1-2", "1-2-ann", "ann@example.com", "ann|1", "ann#1", "2026-11-21", "00012345", "ÄÖÜ", "{A}-1", "x" * 256),
)


def _escaped(text: str) -> bytes:
    return text.replace("%", "%25").replace("{", "%7B").replace("}", "%7D").encode()


class Keys:
    """The keys of one prefix, the codes spread over slots by ``partition`` (by default each code for itself).

    The methods give them as the scripts want them: for each voucher in turn, its book first.
    """

    def __init__(self, prefix: str, partition: Callable[[str], str] | None = None, *, clustered: bool = False) -> None:
        prefix = _check_text("prefix", prefix)
        if "{" in prefix or "}" in prefix:
            raise InvalidRequest("prefix", "must not contain braces: they mark what a cluster hashes")
        if partition is not None and not callable(partition):
            raise InvalidRequest("partition", "must be a function from a code to a text")
        self._prefix = prefix.encode() + b":"
        self._partition = partition
        self._clustered = clustered

    def partition(self) -> tuple[bytes, str] | None:
        """Where the engines of a prefix agree on the slots, and what this one would have; None where it is all the same.

        A function cannot be compared, but what it makes of some codes can.
        """
        if self._partition is None and not self._clustered:
            return None
        fingerprint = sha256(b"\n".join(map(self._probed, _PROBES))).hexdigest()
        return self._prefix + b"partition", fingerprint

    def _probed(self, code: str) -> bytes:
        try:
            return self._book(code)
        except Exception as error:
            # A partition may know its own codes alone; then all that agree with it fail alike.
            return type(error).__name__.encode()

    def probe(self, tag: str) -> bytes:
        """What commands can be tried on: no voucher's key, in a slot that the tag decides."""
        return self._prefix + b"probe{" + tag.encode() + b"}"

    def voucher(self, code: str) -> list[bytes]:
        """Book and index of locks."""
        book = self._book(code)
        return [book, book + b":locks"]

    def sessions(self, codes: tuple[str, ...], session_key: str) -> list[bytes]:
        """For each voucher book, the session's lock and index."""
        session = b":session:" + session_key.encode()
        return [key for book in self._books(codes) for key in (book, book + session, book + b":locks")]

    def sessions_and_redemptions(self, codes: tuple[str, ...], session_key: str, redemption_id: str) -> list[bytes]:
        """For each voucher book, the session's lock, index and the redemption's receipt."""
        session = b":session:" + session_key.encode()
        redemption = b":redemption:" + redemption_id.encode()
        return [
            key for book in self._books(codes) for key in (book, book + session, book + b":locks", book + redemption)
        ]

    def redemptions(self, codes: tuple[str, ...], redemption_id: str) -> list[bytes]:
        """For each voucher book and receipt."""
        redemption = b":redemption:" + redemption_id.encode()
        return [key for book in self._books(codes) for key in (book, book + redemption)]

    def redemption(self, code: str, redemption_id: str) -> bytes:
        """The receipt."""
        return self._book(code) + b":redemption:" + redemption_id.encode()

    def _books(self, codes: tuple[str, ...]) -> list[bytes]:
        books = [self._book(code) for code in codes]
        if self._clustered and len(codes) > 1:
            groups: dict[int, list[str]] = {}
            for code, book in zip(codes, books, strict=True):
                groups.setdefault(key_slot(book), []).append(code)
            if len(groups) > 1:
                raise CrossSlotStack(tuple(map(tuple, groups.values())))
        return books

    def _book(self, code: str) -> bytes:
        if self._partition is None:
            return self._prefix + b"{" + _escaped(code) + b"}"
        hashed = _escaped(_check_text("partition(code)", self._partition(code)))
        return self._prefix + b"{" + hashed + b"}{" + _escaped(code) + b"}"
