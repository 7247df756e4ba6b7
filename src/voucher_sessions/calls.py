"""The verbs, without I/O: arguments -> script, keys, arguments, and how to read the reply.

Theory of operation. A voucher is one book in Redis: its limits, what is used, and the totals of what live sessions
have locked. A session of a voucher is in one of two states, live or not, and only these move it:

    validate with a session   not live -> live, or live -> live with new amounts and a new expiry
    release, redeem           live -> not live
    its expiry                live -> not live, at that millisecond of the server's clock, with nobody's help
    delete_voucher            live -> not live, for all sessions of the voucher

Each verb is one script, atomic in Redis: it reads, takes locks that have expired out of the totals (a bounded batch;
if more are left it answers ``again`` and the engine calls again), checks, writes, replies. A script may run twice
for one call, because client libraries repeat what got no reply; so every call can be repeated without a second effect.
All keys, ids and random words are made before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from voucher_sessions import requests, scripts
from voucher_sessions.errors import (
    CorruptState,
    InvalidRequest,
    OutcomeUnknown,
    RedemptionConflict,
    RedemptionNotFound,
    SessionNotFound,
    VoucherNotFound,
)
from voucher_sessions.keys import Keys
from voucher_sessions.models import (
    ActiveSession,
    IfSessionMissing,
    Redemption,
    Release,
    Rollback,
    Used,
    Validation,
    Voucher,
    VoucherState,
)
from voucher_sessions.replies import (
    Receipt,
    Reply,
    active_sessions,
    chunks,
    limit_exceeded,
    validation,
    voucher_state,
)
from voucher_sessions.requests import (
    Lock,
    SessionLike,
    check_amount,
    check_if_session_missing,
    check_list_limit,
    check_optional_amount,
    check_text,
    random_text,
)

T = TypeVar("T")
Arg = bytes | int | str


class Need(NamedTuple):
    """What is asked of one voucher. Amounts None, in a redemption: what the session locked."""

    code: str
    credits: int | None
    points: int | None


class Again(Exception):
    """No error: more locks had expired than one script call reclaims, so the script asks to be called again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One call of one verb: what to send, and what its reply means."""

    verb: str
    codes: tuple[str, ...]
    script: scripts.Script
    keys: list[bytes]
    args: list[Arg]
    read: Callable[[Reply], T]
    changes: bool = True
    session_key: str | None = None
    redemption_id: str | None = None

    def result(self, reply: Reply) -> T:
        """What the reply stands for; raises the domain's errors, ``Again``, or ``CorruptState``."""
        try:
            match reply[0]:
                case b"again":
                    raise Again
                case b"voucher_missing":
                    raise VoucherNotFound(self._code(reply))
                case b"session_missing":
                    raise SessionNotFound(self._code(reply), self.session_key or "")
                case b"redemption_missing":
                    raise RedemptionNotFound(self._code(reply), self.redemption_id or "")
                case b"conflict":
                    raise RedemptionConflict(self._code(reply), self.redemption_id or "")
                case _:
                    return self.read(reply)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise CorruptState(f"{self.verb}: the server's reply is not one of {self.script.name}.lua") from error

    def _code(self, reply: Reply) -> str:
        return self.codes[int(reply[1]) - 1]

    def raise_from(self, error: RedisError) -> None:
        """Raise what a failed command means for this call; return where the client's own error says it best."""
        if self.changes and isinstance(error, RedisConnectionError | RedisTimeoutError):
            raise OutcomeUnknown(
                self.verb, self.codes, session_key=self.session_key, redemption_id=self.redemption_id
            ) from error
        if isinstance(error, ResponseError) and any(word in str(error) for word in ("CORRUPT ", "WRONGTYPE ")):
            raise CorruptState(
                f"{self.verb}: a key of {', '.join(map(repr, self.codes))} holds what this library never wrote"
            ) from error


class Calls:
    """The calls of one engine: the verbs of its two shells, over one key space."""

    def __init__(self, keys: Keys, receipt_ttl: float | timedelta | None) -> None:
        self._keys = keys
        self._receipt_ttl_ms = requests.duration_in_ms("receipt_ttl", receipt_ttl)

    def put_voucher(self, voucher: Voucher, used: Used | None) -> Call[VoucherState]:
        if not isinstance(voucher, Voucher):
            raise InvalidRequest("voucher", "must be a Voucher")
        if not isinstance(used, Used | None):
            raise InvalidRequest("used", "must be a Used or None")
        quantity = "-" if voucher.quantity is None else voucher.quantity
        brought: list[Arg] = ["keep", 0, 0, 0] if used is None else ["bring", used.quantity, used.credits, used.points]
        return Call(
            verb="put_voucher",
            codes=(voucher.code,),
            script=scripts.PUT_VOUCHER,
            keys=self._voucher(voucher.code),
            args=[random_text(8), quantity, voucher.credits, voucher.points, *brought],
            read=partial(voucher_state, voucher.code),
        )

    def get_voucher(self, code: str) -> Call[VoucherState]:
        return Call(
            verb="get_voucher",
            codes=(check_text("code", code),),
            script=scripts.GET_VOUCHER,
            keys=self._voucher(code),
            args=[],
            read=partial(voucher_state, code),
            changes=False,
        )

    def delete_voucher(self, code: str) -> Call[bool]:
        return Call(
            verb="delete_voucher",
            codes=(check_text("code", code),),
            script=scripts.DELETE_VOUCHER,
            keys=self._voucher(code),
            args=[],
            read=_deleted,
        )

    def validate(self, code: str, credits: int, points: int, session: SessionLike | None) -> Call[Validation]:
        check_text("code", code)
        check_amount("credits", credits)
        check_amount("points", points)
        lock = None if session is None else requests.lock(session)
        return self._validate([Need(code, credits, points)], lock, lambda answers: answers[0])

    def _validate(self, needs: Sequence[Need], lock: Lock | None, result: Callable[[list[Validation]], T]) -> Call[T]:
        codes = tuple(need.code for need in needs)
        session_key = lock.key if lock else ""
        args: list[Arg] = [session_key.encode(), lock.ttl_ms if lock else 0]
        for need in needs:
            args += need.credits or 0, need.points or 0
        return Call(
            verb="validate",
            codes=codes,
            script=scripts.VALIDATE,
            keys=[key for code in codes for key in self._with_session(code, session_key)],
            args=args,
            read=lambda reply: result(_validations(codes, lock, reply)),
            changes=lock is not None,
            session_key=lock.key if lock else None,
        )

    def redeem(
        self,
        code: str,
        credits: int | None,
        points: int | None,
        session: SessionLike | str | None,
        redemption_id: str | None,
        if_session_missing: IfSessionMissing,
    ) -> Call[Redemption]:
        check_text("code", code)
        check_optional_amount("credits", credits)
        check_optional_amount("points", points)
        return self._redeem(
            [Need(code, credits, points)],
            session,
            redemption_id,
            if_session_missing,
            lambda redemptions: redemptions[0],
        )

    def _redeem(
        self,
        needs: Sequence[Need],
        session: SessionLike | str | None,
        redemption_id: str | None,
        if_session_missing: IfSessionMissing,
        result: Callable[[list[Redemption]], T],
    ) -> Call[T]:
        check_if_session_missing("if_session_missing", if_session_missing)
        session_key = None if session is None else requests.session_key(session)
        id_ = "rdm_" + random_text(32) if redemption_id is None else check_text("redemption_id", redemption_id)
        codes = tuple(need.code for need in needs)
        call = random_text(8)
        receipt_ttl_ms = "" if self._receipt_ttl_ms is None else self._receipt_ttl_ms
        args: list[Arg] = [call, (session_key or "").encode(), if_session_missing, receipt_ttl_ms]
        for need in needs:
            args += "-" if need.credits is None else need.credits, "-" if need.points is None else need.points
        return Call(
            verb="redeem",
            codes=codes,
            script=scripts.REDEEM,
            keys=[
                key
                for code in codes
                for key in (*self._with_session(code, session_key or ""), self._redemption(code, id_))
            ],
            args=args,
            read=lambda reply: result(_redemptions(needs, session_key, id_, call, reply)),
            session_key=session_key,
            redemption_id=id_,
        )

    def release(self, code: str, session_key: str) -> Call[Release]:
        return self._release((check_text("code", code),), session_key, lambda releases: releases[0])

    def _release(self, codes: tuple[str, ...], session_key: str, result: Callable[[list[Release]], T]) -> Call[T]:
        check_text("session_key", session_key)
        return Call(
            verb="release",
            codes=codes,
            script=scripts.RELEASE,
            keys=[key for code in codes for key in self._with_session(code, session_key)],
            args=[session_key.encode()],
            read=lambda reply: result(_releases(codes, session_key, reply)),
            session_key=session_key,
        )

    def rollback(self, code: str, redemption_id: str) -> Call[Rollback]:
        return self._rollback((check_text("code", code),), redemption_id, lambda rollbacks: rollbacks[0])

    def _rollback(self, codes: tuple[str, ...], redemption_id: str, result: Callable[[list[Rollback]], T]) -> Call[T]:
        check_text("redemption_id", redemption_id)
        call = random_text(8)
        return Call(
            verb="rollback",
            codes=codes,
            script=scripts.ROLLBACK,
            keys=[key for code in codes for key in (self._keys.book(code), self._redemption(code, redemption_id))],
            args=[call],
            read=lambda reply: result(
                [
                    receipt.rollback(code, redemption_id, replayed=receipt.rolled_back_by != call)
                    for code, receipt in _receipts(codes, reply)
                ]
            ),
            redemption_id=redemption_id,
        )

    def list_sessions(self, code: str, limit: int) -> Call[list[ActiveSession]]:
        return Call(
            verb="list_sessions",
            codes=(check_text("code", code),),
            script=scripts.LIST_SESSIONS,
            keys=self._voucher(code),
            args=[check_list_limit("limit", limit)],
            read=active_sessions,
            changes=False,
        )

    def get_redemption(self, code: str, redemption_id: str) -> Call[Redemption]:
        codes = (check_text("code", code),)
        check_text("redemption_id", redemption_id)
        return Call(
            verb="get_redemption",
            codes=codes,
            script=scripts.GET_REDEMPTION,
            keys=[self._redemption(code, redemption_id)],
            args=[],
            read=lambda reply: _receipts(codes, reply)[0][1].redemption(code, redemption_id, replayed=False),
            changes=False,
            redemption_id=redemption_id,
        )

    def _voucher(self, code: str) -> list[bytes]:
        book = self._keys.book(code)
        return [book, self._keys.locks(book)]

    def _with_session(self, code: str, session_key: str) -> list[bytes]:
        book = self._keys.book(code)
        return [book, self._keys.locks(book), self._keys.session(book, session_key)]

    def _redemption(self, code: str, redemption_id: str) -> bytes:
        return self._keys.redemption(self._keys.book(code), redemption_id)


def _expect(reply: Reply, status: bytes) -> Reply:
    """What follows the status, when it is the one expected."""
    if reply[0] != status:
        raise ValueError(f"status {reply[0]!r}")
    return reply[1:]


def _deleted(reply: Reply) -> bool:
    (existed,) = _expect(reply, b"deleted")
    return existed == 1


def _validations(codes: tuple[str, ...], lock: Lock | None, reply: Reply) -> list[Validation]:
    now_ms, *rows = _expect(reply, b"answered")
    by_voucher = chunks(rows, 9)
    locked = lock is not None and all(row[0] == b"" for row in by_voucher)
    return [
        validation(code, int(now_ms), row, lock=lock, locked=locked)
        for code, row in zip(codes, by_voucher, strict=True)
    ]


def _releases(codes: tuple[str, ...], session_key: str, reply: Reply) -> list[Release]:
    return [
        Release(code=code, session_key=session_key, released=released == 1)
        for code, released in zip(codes, _expect(reply, b"released"), strict=True)
    ]


def _receipts(codes: tuple[str, ...], reply: Reply) -> list[tuple[str, Receipt]]:
    return list(zip(codes, map(Receipt.read, _expect(reply, b"receipts")), strict=True))


def _redemptions(
    needs: Sequence[Need], session_key: str | None, redemption_id: str, call: str, reply: Reply
) -> list[Redemption]:
    codes = tuple(need.code for need in needs)
    if reply[0] == b"refused":
        refusals = [limit_exceeded(code, row) for code, row in zip(codes, chunks(reply[1:], 8), strict=True)]
        raise next(filter(None, refusals))
    redemptions = []
    for need, (code, receipt) in zip(needs, _receipts(codes, reply), strict=True):
        if not receipt.agrees(session_key, need.credits, need.points):
            raise RedemptionConflict(code, redemption_id)
        redemptions.append(receipt.redemption(code, redemption_id, replayed=receipt.call != call))
    return redemptions
