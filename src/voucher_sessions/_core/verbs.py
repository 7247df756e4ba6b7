"""The verbs: each method turns arguments into a ``Call``, which has the script, its keys, its arguments and a reader.

Theory of operation
===================

Data. A voucher is one Redis key, the book: its limits, what is used, and the totals of what live sessions have locked.
A session has a lock on each of its vouchers: quantity 1, credits, points, and an expiry. A redemption leaves a receipt.
``keys.py`` lists all keys.

States of a session. On each voucher a session is either live or not live. Only these events change that:

    validate with a session   not live -> live;  live -> live with the new amounts and expiry
    extend                    live -> live with the new expiry
    release                   live -> not live;  so does validate_stack(release=[…]) on the vouchers it names
    redeem with the session   live -> not live, and the amounts are used;  so does the import of such a redemption
    expiry                    live -> not live, when the server's clock reaches the expiry; no process has to act
    delete_voucher            live -> not live, for all sessions of the voucher

A call that is refused changes no state. rollback reduces what is used, and adjust changes the limits; neither makes a
session live again.

Scripts. Each verb is one Lua script, which Redis runs atomically. It reads the keys, subtracts expired locks from the
totals, checks the request, writes, and replies. It subtracts a limited number of expired locks in one run, so that it
never blocks the server for long. If there are more, it may reply ``again``; the transport then sends the same call
again. Redis does not undo the writes of a script that fails, so each script completes all checks before its first write
for the request.

Own replies. Every call carries a call id, a random token that is generated before anything is sent, and every reply of a
script begins with it. A reply with another id belongs to another call: the connection is closed, and the reply counts as
lost. An error has no id, so it counts only if ECHO, sent behind the call, shows that the connection is in step.

Repeated runs. The engine, or the client through which it sends, sends a command again when no reply arrives, so a
script may run several times for one call. To prevent a second effect, the script of a call that changes something
stores the call id with the change: in the book, in the session's key or in a receipt. When it runs again and finds
its own call id there, it changes nothing and replies as the first run did. A session's key and a book keep the ids of
the last few calls, so this works even if other calls ran in between. The session's key of a released or redeemed
session, and the book of a deleted voucher, stay for 120 seconds for this purpose.

The caller repeats a call with a new call id. A redemption, rollback or adjustment id that has a receipt already gives
the first result, marked ``replayed=True``; validate with the same session key sets the same lock again, and extend the
expiry; release of a session that is not live returns ``released=False``.

Lost replies. If the connection fails after a command was sent, the script may or may not have run. A call that changes
something then raises ``OutcomeUnknown``, which carries the session key and the ids of the call, generated ones too. The
caller repeats the call with them: if the first call had its effect, the repeated one does not add a second. A call that
only reads, or that was never sent, raises ``ServerUnavailable``: nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

from voucher_sessions._core import adjustments, audit, receipts, replies, requests, scripts, server_check, walks
from voucher_sessions._core.call import Arg, Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.replies import Reply
from voucher_sessions._core.requests import (
    SessionRequest,
    VoucherRequest,
    check_codes,
    check_text,
    new_call_id,
    random_text,
)
from voucher_sessions._core.steps import Calls, Walk
from voucher_sessions.errors import InvalidRequest
from voucher_sessions.models import (
    IfExists,
    IfSessionMissing,
    RedeemableLike,
    RedemptionRow,
    SessionLike,
    TtlUnit,
    TtlUnitName,
    Used,
    Voucher,
    checked_model,
)
from voucher_sessions.results import (
    ActiveSession,
    Adjustment,
    Audit,
    Finding,
    Redemption,
    Release,
    Rollback,
    StackRedemption,
    StackValidation,
    Validation,
    VoucherState,
)

T = TypeVar("T")


def _id(prefix: str, field: str, given: str | None) -> str:
    """The checked id of the caller, or a generated one."""
    return prefix + random_text(32) if given is None else check_text(field, given)


def _is_text(value: str | bytes) -> bool:
    """Whether it can be a code or an id. If it cannot, something other than this library has written it."""
    try:
        return bool(check_text("value", value if isinstance(value, str) else value.decode()))
    except ValueError:  # InvalidRequest is one, and the error of a text that is not UTF-8
        return False


class Verbs:
    """Builds the calls of one engine, sync or asyncio, from the arguments of its methods.

    A verb for one voucher runs the same script as the verb for a stack, and returns the only result.
    """

    def __init__(
        self,
        keys: Keys,
        receipt_ttl: float | timedelta | None = None,
        default_ttl: float | timedelta | None = None,
        max_ttl: float | timedelta | None = None,
    ) -> None:
        self._keys = keys
        receipt_ttl_ms = requests.receipt_ttl_in_ms(receipt_ttl)
        # The argument of scripts: '' if receipts do not expire.
        self._receipt_ttl_ms = "" if receipt_ttl_ms is None else str(receipt_ttl_ms)
        self._ttl_policy = requests.ttl_policy(default_ttl, max_ttl)

    def agree_on_partition(self) -> Call[None] | None:
        """The call that goes before all others: it checks that all engines of a prefix use the same ``partition``.

        None if there is nothing to check.
        """
        partition = self._keys.partition()
        if partition is None:
            return None
        key, fingerprint = partition
        return Call(
            verb="agree_on_partition",
            codes=(),
            script=scripts.AGREE_ON_PARTITION,
            keys=[key],
            args=[fingerprint],
            read=partial(replies.check_partition, fingerprint),
            changes=False,
            key_in_text=key.decode(),
        )

    def partition_fails_for(self, code: str) -> bool:
        """Whether the engine's ``partition`` raises an error for this code, or returns no text."""
        try:
            self._keys.voucher(code)
        except Exception:
            return True
        return False

    def check_partition(self) -> list[Finding]:
        """The findings of ``check_server`` about the engine's own ``partition``."""
        return server_check.partition_findings(always_fails=self._keys.partition_always_fails())

    def check_permissions(self, tag: str) -> Call[dict[str, str]]:
        """For each of ``scripts.COMMANDS`` the error with which the server refuses it, or ''."""
        return Call(
            verb="check_server",
            codes=(),
            script=scripts.CHECK_PERMISSIONS,
            keys=[self._keys.probe(tag)],
            args=[server_check.TRIAL_COMMANDS],
            read=partial(replies.refusals, scripts.COMMANDS),
            changes=False,
        )

    def put_voucher(self, voucher: Voucher, used: Used | None, if_exists: IfExists = "update") -> Call[VoucherState]:
        return self._put_voucher(voucher, used, if_exists, lambda *reply: replies.voucher_put(*reply)[1])

    def import_voucher(
        self, voucher: Voucher, used: Used | None, if_exists: IfExists
    ) -> Call[tuple[bool, VoucherState]]:
        """``put_voucher``, which also returns whether this call has created the voucher."""
        return self._put_voucher(voucher, used, if_exists, replies.voucher_put)

    def _put_voucher(
        self, voucher: Voucher, used: Used | None, if_exists: IfExists, read: Callable[[str, Reply], T]
    ) -> Call[T]:
        voucher = checked_model("voucher", Voucher, voucher)
        used = None if used is None else checked_model("used", Used, used)
        if_exists = requests.check_if_exists("if_exists", if_exists)
        quantity = -1 if voucher.quantity is None else voucher.quantity
        figures = used or Used()
        keys = self._keys.voucher(voucher.code)
        return Call(
            verb="put_voucher",
            codes=(voucher.code,),
            script=scripts.PUT_VOUCHER,
            keys=keys,
            args=[
                *(if_exists, str(quantity), str(voucher.credits), str(voucher.points)),
                *("keep" if used is None else "set", str(figures.quantity), str(figures.credits), str(figures.points)),
            ],
            read=partial(read, voucher.code),
            changed_keys=keys[:1],
        )

    def adjust(
        self, code: str, quantity: int, credits: int, points: int, adjustment_id: str | None
    ) -> Call[Adjustment]:
        code = check_text("code", code)
        changes = (
            requests.check_change("quantity", quantity),
            requests.check_change("credits", credits),
            requests.check_change("points", points),
        )
        if changes == (0, 0, 0):
            raise InvalidRequest("quantity", "must not be 0 if credits and points are: name what is to change")
        id_ = _id("adj_", "adjustment_id", adjustment_id)
        call_id = new_call_id()
        keys = self._keys.adjustment(code, id_)
        return Call(
            verb="adjust",
            requested=[VoucherRequest(code, *changes[1:])],
            codes=(code,),
            script=scripts.ADJUST,
            keys=keys,
            args=[*map(str, changes), self._receipt_ttl_ms],
            read=partial(adjustments.adjustment, code, id_, changes, call_id),
            adjustment_id=id_,
            changed_keys=[keys[0], keys[2]],
            id=call_id,
        )

    def get_voucher(self, code: str) -> Call[VoucherState]:
        code = check_text("code", code)
        return Call(
            verb="get_voucher",
            codes=(code,),
            script=scripts.GET_VOUCHER,
            keys=self._keys.voucher(code),
            args=[],
            read=partial(replies.voucher_state, code),
            changes=False,
        )

    def delete_voucher(self, code: str) -> Call[bool]:
        code = check_text("code", code)
        keys = self._keys.voucher(code)
        return Call(
            verb="delete_voucher",
            codes=(code,),
            script=scripts.DELETE_VOUCHER,
            keys=keys,
            args=[],
            read=replies.deleted,
            changed_keys=keys[:1],
        )

    def validate(
        self, code: str, credits: int, points: int, session: SessionLike | ActiveSession | None
    ) -> Call[Validation]:
        request = VoucherRequest(
            check_text("code", code),
            requests.check_amount("credits", credits),
            requests.check_amount("points", points),
        )
        return self._validate("validate", [request], session, (), replies.only_validation)

    def validate_stack(
        self, redeemables: Sequence[RedeemableLike], session: SessionLike | ActiveSession | None, release: Sequence[str]
    ) -> Call[StackValidation]:
        requested = requests.stack_requests(redeemables)
        released = requests.check_released_codes("release", release)
        if released and session is None:
            raise InvalidRequest("release", "needs a session: give the session whose locks are to be released")
        if not {request.code for request in requested}.isdisjoint(released):
            raise InvalidRequest("release", "must not name a code that is to be validated")
        return self._validate("validate_stack", requested, session, released, replies.stack_validation)

    def _validate(
        self,
        verb: str,
        requested: Sequence[VoucherRequest],
        session: SessionLike | ActiveSession | None,
        released: tuple[str, ...],
        read: Callable[[tuple[str, ...], SessionRequest | None, Reply], T],
    ) -> Call[T]:
        to_lock = None if session is None else requests.session_request(session, self._ttl_policy)
        key = to_lock.key if to_lock else ""
        codes = tuple(request.code for request in requested)
        args: list[Arg] = [key.encode(), str(to_lock.ttl_ms) if to_lock else "0"]
        for request in requested:
            args += str(request.credits or 0), str(request.points or 0)
        keys = self._keys.sessions(codes + released, key)
        return Call(
            verb=verb,
            requested=requested,
            codes=codes + released,
            script=scripts.VALIDATE,
            keys=keys,
            args=args,
            read=partial(read, codes, to_lock),
            changes=to_lock is not None,
            session_key=to_lock.key if to_lock else None,
            changed_keys=keys[1::3],
        )

    def redeem(
        self,
        code: str,
        credits: int | None,
        points: int | None,
        session: SessionLike | ActiveSession | str | None,
        redemption_id: str | None,
        if_session_missing: IfSessionMissing,
    ) -> Call[Redemption]:
        request = requests.voucher_request(code, credits, points)
        return self._redeem(
            "redeem", [request], session, redemption_id, if_session_missing, lambda redeemed: redeemed[0]
        )

    def redeem_stack(
        self,
        redeemables: Sequence[RedeemableLike],
        session: SessionLike | ActiveSession | str | None,
        redemption_id: str | None,
        if_session_missing: IfSessionMissing,
    ) -> Call[StackRedemption]:
        requested = requests.stack_requests(redeemables)
        return self._redeem(
            "redeem_stack", requested, session, redemption_id, if_session_missing, receipts.stack_redemption
        )

    def _redeem(
        self,
        verb: str,
        requested: Sequence[VoucherRequest],
        session: SessionLike | ActiveSession | str | None,
        redemption_id: str | None,
        if_session_missing: IfSessionMissing,
        result: Callable[[list[Redemption]], T],
    ) -> Call[T]:
        if_session_missing = requests.check_if_session_missing("if_session_missing", if_session_missing)
        key = None if session is None else requests.session_key(session)
        id_ = _id("rdm_", "redemption_id", redemption_id)
        codes = tuple(request.code for request in requested)
        call_id = new_call_id()
        stack = receipts.stack_fingerprint(codes)
        args: list[Arg] = [(key or "").encode(), if_session_missing, self._receipt_ttl_ms, stack]
        for request in requested:
            args += (
                "-" if request.credits is None else str(request.credits),
                "-" if request.points is None else str(request.points),
            )
        keys = self._keys.sessions_and_redemptions(codes, key or "", id_)
        asked = receipts.RedemptionRequest(id_, key, stack, call_id)
        return Call(
            verb=verb,
            requested=requested,
            codes=codes,
            script=scripts.REDEEM,
            keys=keys,
            args=args,
            read=lambda reply: result(receipts.redemptions(requested, asked, reply)),
            session_key=key,
            redemption_id=id_,
            changed_keys=[*(keys[1::4] if key else ()), *keys[3::4]],
            id=call_id,
        )

    def release(self, code: str, session_key: str) -> Call[Release]:
        return self._release(
            "release", (check_text("code", code),), session_key, lambda *reply: replies.releases(*reply)[0]
        )

    def release_stack(self, codes: Sequence[str], session_key: str) -> Call[list[Release]]:
        return self._release("release_stack", check_codes("codes", codes), session_key, replies.releases)

    def _release(
        self, verb: str, codes: tuple[str, ...], session_key: str, read: Callable[[tuple[str, ...], str, Reply], T]
    ) -> Call[T]:
        session_key = check_text("session_key", session_key)
        keys = self._keys.sessions(codes, session_key)
        return Call(
            verb=verb,
            codes=codes,
            script=scripts.RELEASE,
            keys=keys,
            args=[session_key.encode()],
            read=partial(read, codes, session_key),
            session_key=session_key,
            changed_keys=keys[1::3],
        )

    def get_session(self, code: str, session_key: str) -> Call[ActiveSession]:
        code, session_key = check_text("code", code), check_text("session_key", session_key)
        return Call(
            verb="get_session",
            codes=(code,),
            script=scripts.GET_SESSION,
            keys=self._keys.sessions((code,), session_key),
            args=[session_key.encode()],
            read=lambda reply: replies.live_sessions(1, session_key, None, reply)[0],
            changes=False,
            session_key=session_key,
        )

    def extend(
        self, code: str, session_key: str, ttl: float | None, ttl_unit: TtlUnit | TtlUnitName | None
    ) -> Call[ActiveSession]:
        codes = (check_text("code", code),)
        return self._extend(
            "extend", codes, session_key, ttl, ttl_unit, lambda *reply: replies.live_sessions(*reply)[0]
        )

    def extend_stack(
        self, codes: Sequence[str], session_key: str, ttl: float | None, ttl_unit: TtlUnit | TtlUnitName | None
    ) -> Call[list[ActiveSession]]:
        return self._extend(
            "extend_stack", check_codes("codes", codes), session_key, ttl, ttl_unit, replies.live_sessions
        )

    def _extend(
        self,
        verb: str,
        codes: tuple[str, ...],
        session_key: str,
        ttl: float | None,
        ttl_unit: TtlUnit | TtlUnitName | None,
        read: Callable[[int, str, SessionRequest | None, Reply], T],
    ) -> Call[T]:
        request = requests.extension(session_key, ttl, ttl_unit, self._ttl_policy)
        keys = self._keys.sessions(codes, request.key)
        return Call(
            verb=verb,
            codes=codes,
            script=scripts.EXTEND,
            keys=keys,
            args=[request.key.encode(), str(request.ttl_ms)],
            read=partial(read, len(codes), request.key, request),
            session_key=request.key,
            changed_keys=keys[1::3],
        )

    def rollback(
        self, code: str, redemption_id: str, credits: int | None, points: int | None, rollback_id: str | None
    ) -> Call[Rollback]:
        code = check_text("code", code)
        credits = requests.check_optional_amount("credits", credits)
        points = requests.check_optional_amount("points", points)
        if credits is not None or points is not None:
            return self._partial_rollback(code, redemption_id, credits or 0, points or 0, rollback_id)
        if rollback_id is not None:
            raise InvalidRequest(
                "rollback_id", "is only for a partial rollback: name credits or points, or leave it out"
            )
        return self._rollback("rollback", (code,), redemption_id, lambda *reply: receipts.rollbacks(*reply)[0])

    def _partial_rollback(
        self, code: str, redemption_id: str, credits: int, points: int, rollback_id: str | None
    ) -> Call[Rollback]:
        redemption_id = check_text("redemption_id", redemption_id)
        if not credits and not points:
            raise InvalidRequest("credits", "must not be 0 if points are: to give back the rest, name no amounts")
        id_ = _id("rbk_", "rollback_id", rollback_id)
        call_id = new_call_id()
        keys = self._keys.partial_rollback(code, redemption_id, id_)
        return Call(
            verb="rollback",
            requested=[VoucherRequest(code, credits, points)],
            codes=(code,),
            script=scripts.PARTIAL_ROLLBACK,
            keys=keys,
            args=[redemption_id.encode(), str(credits), str(points)],
            read=partial(receipts.partial_rollback, code, redemption_id, id_, credits, points, call_id),
            redemption_id=redemption_id,
            rollback_id=id_,
            changed_keys=keys[1:],
            id=call_id,
        )

    def rollback_stack(self, codes: Sequence[str], redemption_id: str) -> Call[list[Rollback]]:
        return self._rollback("rollback_stack", check_codes("codes", codes), redemption_id, receipts.rollbacks)

    def _rollback(
        self,
        verb: str,
        codes: tuple[str, ...],
        redemption_id: str,
        read: Callable[[tuple[str, ...], str, str, Reply], T],
    ) -> Call[T]:
        redemption_id = check_text("redemption_id", redemption_id)
        call_id = new_call_id()
        keys = self._keys.redemptions(codes, redemption_id)
        return Call(
            verb=verb,
            codes=codes,
            script=scripts.ROLLBACK,
            keys=keys,
            args=[],
            read=partial(read, codes, redemption_id, call_id),
            redemption_id=redemption_id,
            changed_keys=keys[1::2],
            id=call_id,
        )

    def list_sessions(self, code: str, limit: int) -> Call[list[ActiveSession]]:
        code = check_text("code", code)
        return Call(
            verb="list_sessions",
            codes=(code,),
            script=scripts.LIST_SESSIONS,
            keys=self._keys.voucher(code),
            args=[str(requests.check_list_limit("limit", limit)), "0", ""],
            read=replies.active_sessions,
            changes=False,
        )

    def iter_sessions(self, code: str, batch: int) -> Walk[ActiveSession]:
        """The walk over all live sessions."""
        return walks.sessions(self._keys, check_text("code", code), requests.check_list_limit("batch", batch))

    def get_redemption(self, code: str, redemption_id: str) -> Call[Redemption]:
        code = check_text("code", code)
        redemption_id = check_text("redemption_id", redemption_id)
        return Call(
            verb="get_redemption",
            codes=(code,),
            script=scripts.GET_REDEMPTION,
            keys=[self._keys.redemption(code, redemption_id)],
            args=[],
            read=partial(receipts.only_redemption, code, redemption_id),
            changes=False,
            redemption_id=redemption_id,
        )

    def import_redemption(self, row: RedemptionRow, *, count: bool) -> Call[tuple[bool, Redemption]]:
        """Write the receipt of a redemption that another system has made, or that a lost server had."""
        call_id = new_call_id()
        keys = self._keys.sessions_and_redemptions((row.code,), row.session_key or "", row.id)
        rolled_back = bool(row.rolled_back)
        back = (0, 0) if rolled_back else (row.credits_rolled_back or 0, row.points_rolled_back or 0)
        return Call(
            verb="import_redemption",
            codes=(row.code,),
            script=scripts.IMPORT_REDEMPTION,
            keys=keys,
            args=[
                *((row.session_key or "").encode(), str(int(count))),
                "" if row.redeemed_at is None else str(replies.ms_of(row.redeemed_at)),
                *map(str, (row.credits, row.points, *back, int(rolled_back))),
                self._receipt_ttl_ms,
            ],
            read=partial(receipts.imported, row.code, row.id, call_id),
            redemption_id=row.id,
            changed_keys=[*(keys[1:2] if row.session_key else ()), keys[3]],
            id=call_id,
        )

    def scanned_vouchers(self, tag: str, batch: int) -> Walk[bytes]:
        """The walk over the keys of books on the server that has this hash tag."""
        return walks.scanned_keys("scan_vouchers", self._keys.probe(tag), self._keys.books_pattern(), batch)

    def scanned_redemptions(self, tag: str, code: str | None, batch: int) -> Walk[bytes]:
        """The walk over the keys of receipts, or those of one voucher, on the server that has this hash tag."""
        return walks.scanned_keys(
            "scan_redemptions", self._keys.probe(tag), self._keys.redemptions_pattern(code), batch
        )

    def scanned_redemptions_of(self, code: str, batch: int) -> Walk[bytes]:
        """The walk over the keys of receipts of one voucher, on the server that has its book."""
        book_key = self._keys.voucher(code)[0]
        return walks.scanned_keys("scan_redemptions", book_key, self._keys.redemptions_pattern(code), batch)

    def voucher_at(self, key: bytes) -> tuple[str] | None:
        """The code of the voucher whose book has this key; None for any other key."""
        code, rest = self._keys.code_of(key) or ("", b"")
        return (code,) if not rest and _is_text(code) else None

    def redemption_at(self, key: bytes) -> tuple[str, str] | None:
        """The code and the id of the redemption whose receipt has this key; None for any other key."""
        code, rest = self._keys.code_of(key) or ("", b"")
        before, _, id_ = rest.partition(b":redemption:")
        return (code, id_.decode()) if not before and _is_text(code) and _is_text(id_) else None

    def audit(self, code: str) -> Calls[Audit]:
        return audit.audit(self._keys, check_text("code", code))

    def repair(self, code: str) -> Calls[Audit]:
        return audit.repair(self._keys, check_text("code", code))
