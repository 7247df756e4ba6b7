"""The names of all keys, built in one place.

    prefix:{CODE}                    STRING  the book: limits, used, the totals of the locks    stays
    prefix:{CODE}:locks              ZSET    amounts and session key, by expiry in ms           expires with its last lock
    prefix:{CODE}:session:<key>      STRING  the lock of one session                            expires with it
    prefix:{CODE}:redemption:<id>    STRING  the receipt of one redemption                      stays, or receipt_ttl

The braces make a voucher one hash slot of a cluster; with a partition it is ``prefix:{PARTITION}{CODE}…``. Braces
inside a code are escaped, so a code ends at its brace and what follows can be any text: no code, session key or
redemption id reaches another voucher's keys.
"""

from __future__ import annotations

from collections.abc import Callable

from voucher_sessions.errors import InvalidRequest
from voucher_sessions.models import Checked, Text

_check_text = Checked(Text)


def _escaped(text: str) -> bytes:
    return text.replace("%", "%25").replace("{", "%7B").replace("}", "%7D").encode()


class Keys:
    """The keys of one prefix, the codes spread over slots by ``partition`` (by default each code for itself)."""

    def __init__(self, prefix: str, partition: Callable[[str], str] | None) -> None:
        if "{" in _check_text("prefix", prefix) or "}" in prefix:
            raise InvalidRequest("prefix", "must not contain braces: they mark what a cluster hashes")
        if partition is not None and not callable(partition):
            raise InvalidRequest("partition", "must be a function from a code to a text")
        self._prefix = prefix.encode() + b":"
        self._partition = partition

    def hashed(self, code: str) -> bytes:
        """What a cluster hashes of this code's keys: codes that share it can be stacked."""
        if self._partition is None:
            return _escaped(code)
        return _escaped(_check_text("partition(code)", self._partition(code)))

    def book(self, code: str) -> bytes:
        hashed = self.hashed(code)
        name = b"{" + hashed + b"}"
        if self._partition is not None:
            name += b"{" + _escaped(code) + b"}"
        return self._prefix + name

    @staticmethod
    def locks(book: bytes) -> bytes:
        return book + b":locks"

    @staticmethod
    def session(book: bytes, session_key: str) -> bytes:
        return book + b":session:" + session_key.encode()

    @staticmethod
    def redemption(book: bytes, redemption_id: str) -> bytes:
        return book + b":redemption:" + redemption_id.encode()
