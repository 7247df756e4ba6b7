"""The names of all keys, built in one place.

    prefix:{CODE}                    STRING  the book: limits, used, totals of all locks        no TTL
    prefix:{CODE}:locks              ZSET    the index, if there are two locks or more:         a day after its last lock*
                                             amounts and session key, by expiry in ms
    prefix:{CODE}:session:<key>      STRING  the lock of one session                            expires with the lock
    prefix:{CODE}:redemption:<id>    STRING  the receipt of one redemption                      no TTL, or receipt_ttl
    prefix:{CODE}:rollback:<id>      STRING  the receipt of one partial rollback                as its redemption's
    prefix:{CODE}:adjustment:<id>    STRING  the receipt of one adjustment                      no TTL, or receipt_ttl
    prefix:{CODE}:fence              STRING  the write that WAIT waits for, with durability=    1 second
    prefix:partition                 STRING  the fingerprint of the partition function          no TTL
    prefix:probe{TAG}                        decides the server of check_server and of a scan   never exists

(* So it survives a clock that jumps forward and back, and until then a script can UNLINK it, which does not block Redis.)

The braces put all keys of a voucher into one hash slot of a cluster. With a partition function, the keys are
``prefix:{PARTITION}{CODE}…``. Braces inside a code are escaped, so the closing brace always ends the code, and the text
after it can be anything: no code, session key or id can form a key of another voucher.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from redis.crc import key_slot

from voucher_sessions.errors import CrossSlotStack, InvalidRequest
from voucher_sessions.models import Checker, Text

_check_text = Checker(Text)

# Sample codes. Two partition functions that differ in the usual ways (the separator, the length, the case, digits) map
# at least one of them to different values.
_SAMPLE_CODES: Final = (
    *("A", "a", "7", "GIFT-50", "gift-50", "GIFT_50", "GIFT.50", "GIFT:50", "GIFT/50", "GIFT 50", "GIFT50", "50-GIFT"),
    *("ann-1-2", "1-2-ann", "ann@example.com", "ann|1", "ann#1", "2026-11-21", "00012345", "ÄÖÜ", "{A}-1", "x" * 256),
)


# A key without its prefix.
_KEY: Final = re.compile(rb"(?:\{[^{}]*\})?\{(?P<code>[^{}]*)\}(?P<rest>[^{].*|)", re.DOTALL)


def _escaped(text: str) -> bytes:
    return text.replace("%", "%25").replace("{", "%7B").replace("}", "%7D").encode()


def _unescaped(text: str) -> str:
    return text.replace("%7D", "}").replace("%7B", "{").replace("%25", "%")


def _literal(text: bytes) -> bytes:
    """A pattern of SCAN that matches only this text."""
    return re.sub(rb"([\\*?\[\]^-])", rb"\\\1", text)


class Keys:
    """The keys under one prefix. ``partition`` maps a code to the text that decides its slot; by default the code.

    The methods return keys in the order in which the scripts take them: voucher by voucher, each one's book first.
    """

    def __init__(self, prefix: str, partition: Callable[[str], str] | None = None, *, clustered: bool = False) -> None:
        prefix = _check_text("prefix", prefix)
        if "{" in prefix or "}" in prefix:
            raise InvalidRequest("prefix", "must not contain braces: a cluster hashes the text between them")
        if partition is not None and not callable(partition):
            raise InvalidRequest("partition", "must be a function from a code to a text")
        self._prefix = prefix.encode() + b":"
        self._partition = partition
        self._clustered = clustered

    def partition(self) -> tuple[bytes, str] | None:
        """The key of the fingerprint of the partition function, and this engine's fingerprint.

        All engines of a prefix must use the same function. Functions cannot be compared, so the fingerprint is a hash
        of the keys that the function gives for some sample codes. None if no engine can disagree: one server, and no
        partition function.
        """
        if self._partition is None and not self._clustered:
            return None
        fingerprint = sha256(b"\n".join(map(self._sample_key, _SAMPLE_CODES))).hexdigest()
        return self._prefix + b"partition", fingerprint

    def partition_always_fails(self) -> bool:
        """Whether the partition function fails for every sample code, so that it has the fingerprint of all that do."""
        return self._partition is not None and all(map(self._fails_for, _SAMPLE_CODES))

    def _sample_key(self, code: str) -> bytes:
        try:
            return self._book(code)
        except Exception as error:
            if not self._fails_for(code):
                raise  # not the function's error: a signal handler's, say
            # The function may reject codes that the application never uses. Then every equal function raises the same error.
            return type(error).__name__.encode()

    def _fails_for(self, code: str) -> bool:
        try:
            self._book(code)
        except Exception:
            return True
        return False

    def probe(self, tag: str) -> bytes:
        """A key for trying commands on. It belongs to no voucher; the tag decides its slot."""
        return self._prefix + b"probe{" + tag.encode() + b"}"

    def voucher(self, code: str) -> list[bytes]:
        """The book and the index of locks."""
        book = self._book(code)
        return [book, book + b":locks"]

    def sessions(self, codes: tuple[str, ...], session_key: str) -> list[bytes]:
        """For each voucher: the book, the session's lock, the index of locks."""
        session = b":session:" + session_key.encode()
        return [key for book in self._books(codes) for key in (book, book + session, book + b":locks")]

    def sessions_and_redemptions(self, codes: tuple[str, ...], session_key: str, redemption_id: str) -> list[bytes]:
        """For each voucher: the book, the session's lock, the index of locks, the receipt."""
        session = b":session:" + session_key.encode()
        redemption = b":redemption:" + redemption_id.encode()
        return [
            key for book in self._books(codes) for key in (book, book + session, book + b":locks", book + redemption)
        ]

    def redemptions(self, codes: tuple[str, ...], redemption_id: str) -> list[bytes]:
        """For each voucher: the book and the receipt."""
        redemption = b":redemption:" + redemption_id.encode()
        return [key for book in self._books(codes) for key in (book, book + redemption)]

    def redemption(self, code: str, redemption_id: str) -> bytes:
        """The receipt of one redemption."""
        return self._book(code) + b":redemption:" + redemption_id.encode()

    def partial_rollback(self, code: str, redemption_id: str, rollback_id: str) -> list[bytes]:
        """The book, the receipt of the redemption, the receipt of the rollback."""
        book = self._book(code)
        return [book, book + b":redemption:" + redemption_id.encode(), book + b":rollback:" + rollback_id.encode()]

    def adjustment(self, code: str, adjustment_id: str) -> list[bytes]:
        """The book, the index of locks, the receipt of the adjustment."""
        return [*self.voucher(code), self._book(code) + b":adjustment:" + adjustment_id.encode()]

    def books_pattern(self) -> bytes:
        """A pattern of SCAN: every book, and other keys that end with a brace."""
        return _literal(self._prefix) + b"{*}"

    def redemptions_pattern(self, code: str | None) -> bytes:
        """A pattern of SCAN: all receipts of redemptions, or those of one voucher, and perhaps other keys."""
        return (_literal(self._prefix) + b"{*}" if code is None else _literal(self._book(code))) + b":redemption:*"

    def code_of(self, key: bytes) -> tuple[str, bytes] | None:
        """The code of the voucher to which a key belongs, and what follows its book's key; None for any other key."""
        match = _KEY.fullmatch(key, len(self._prefix))
        if match is None:
            return None
        try:
            code = _unescaped(match["code"].decode())
        except UnicodeDecodeError:
            return None
        if self._fails_for(code):  # an engine with another partition function has written it
            return None
        return (code, match["rest"]) if key == self._book(code) + match["rest"] else None

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
