"""The verbs, without I/O: arguments -> script, keys, arguments, and how to read the reply.

Theory of operation. A voucher is one book in Redis: its limits, what is used, and the totals of what live sessions
have locked. A session of a voucher is in one of two states, live or not, and only these move it:

    validate with a session   not live -> live, or live -> live with new amounts and a new expiry
    release, redeem           live -> not live
    its expiry                live -> not live, at that millisecond of the server's clock, with nobody's help
    delete_voucher            live -> not live, for all sessions of the voucher

Each verb is one script, atomic in Redis: it reads, takes locks that have expired out of the totals (a bounded batch;
if more are left it answers ``again`` and the engine calls again), checks, writes, replies. A script may run several
times for one call, because client libraries repeat what got no reply; so every call that changes something carries a
random word of its own, which it leaves beside what it did: run again, it finds its word, does nothing, and answers as it
did the first time. All keys, ids and random words are made before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

from voucher_sessions._core import audit, replies, requests, scripts
from voucher_sessions._core.audit import Steps
from voucher_sessions._core.call import Arg, Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.replies import Reply
from voucher_sessions._core.requests import Lock, Need, SessionLike, check_codes, check_text, random_text, random_word
from voucher_sessions._core.server_check import TRIALS
from voucher_sessions.errors import InvalidRequest
from voucher_sessions.models import IfSessionMissing, Redeemable, Used, Voucher, checked_model
from voucher_sessions.results import (
    ActiveSession,
    Audit,
    Redemption,
    Release,
    Rollback,
    StackRedemption,
    StackValidation,
    Validation,
    VoucherState,
)

T = TypeVar("T")


class Verbs:
    """The calls of one engine: the verbs of its two shells, over one key space.

    A verb of one voucher is the same verb of a stack of one: the same script, and the first of its results.
    """

    def __init__(self, keys: Keys, receipt_ttl: float | timedelta | None) -> None:
        self._keys = keys
        self._receipt_ttl_ms = requests.duration_in_ms("receipt_ttl", receipt_ttl)

    def agree_on_partition(self) -> Call[None] | None:
        """What an engine must ask before its first call, if anything (semantics 14)."""
        agreed = self._keys.partition()
        if agreed is None:
            return None
        key, fingerprint = agreed
        return Call(
            verb="agree_on_partition",
            codes=(),
            script=scripts.AGREE_ON_PARTITION,
            keys=[key],
            args=[fingerprint],
            read=partial(replies.agreed, fingerprint),
            changes=False,
        )

    def check_permissions(self, tag: str) -> Call[dict[str, str]]:
        """Why each of ``scripts.COMMANDS`` is refused, or ''."""
        return Call(
            verb="check_permissions",
            codes=(),
            script=scripts.CHECK_PERMISSIONS,
            keys=[self._keys.probe(tag)],
            args=[TRIALS],
            read=partial(replies.refusals, scripts.COMMANDS),
            changes=False,
        )

    def put_voucher(self, voucher: Voucher, used: Used | None) -> Call[VoucherState]:
        voucher = checked_model("voucher", Voucher, voucher)
        used = None if used is None else checked_model("used", Used, used)
        quantity = -1 if voucher.quantity is None else voucher.quantity
        brought: list[Arg] = ["keep", 0, 0, 0] if used is None else ["set", used.quantity, used.credits, used.points]
        return Call(
            verb="put_voucher",
            codes=(voucher.code,),
            script=scripts.PUT_VOUCHER,
            keys=self._keys.voucher(voucher.code),
            args=[random_word(), quantity, voucher.credits, voucher.points, *brought],
            read=partial(replies.voucher_state, voucher.code),
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
        return Call(
            verb="delete_voucher",
            codes=(code,),
            script=scripts.DELETE_VOUCHER,
            keys=self._keys.voucher(code),
            args=[random_word()],
            read=replies.deleted,
        )

    def validate(self, code: str, credits: int, points: int, session: SessionLike | None) -> Call[Validation]:
        need = Need(
            check_text("code", code),
            requests.check_amount("credits", credits),
            requests.check_amount("points", points),
        )
        return self._validate([need], session, (), replies.only_validation)

    def validate_stack(
        self, redeemables: Sequence[Redeemable], session: SessionLike | None, release: Sequence[str]
    ) -> Call[StackValidation]:
        needs = requests.stack(redeemables)
        released = () if type(release) is tuple and not release else check_codes("release", release)
        if released and session is None:
            raise InvalidRequest("release", "needs the session whose locks it drops")
        if not {need.code for need in needs}.isdisjoint(released):
            raise InvalidRequest("release", "must not name a code that is to be validated")
        return self._validate(needs, session, released, replies.stack_validation)

    def _validate(
        self,
        needs: Sequence[Need],
        session: SessionLike | None,
        released: tuple[str, ...],
        read: Callable[[tuple[str, ...], Lock | None, Reply], T],
    ) -> Call[T]:
        lock = None if session is None else requests.lock(session)
        key = lock.key if lock else ""
        codes = tuple(need.code for need in needs)
        args: list[Arg] = [random_word() if lock else "", key.encode(), lock.ttl_ms if lock else 0]
        for need in needs:
            args += need.credits or 0, need.points or 0
        return Call(
            verb="validate",
            codes=codes + released,
            script=scripts.VALIDATE,
            keys=self._keys.sessions(codes + released, key),
            args=args,
            read=partial(read, codes, lock),
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
        need = requests.need(code, credits, points)
        return self._redeem([need], session, redemption_id, if_session_missing, lambda redeemed: redeemed[0])

    def redeem_stack(
        self,
        redeemables: Sequence[Redeemable],
        session: SessionLike | str | None,
        redemption_id: str | None,
        if_session_missing: IfSessionMissing,
    ) -> Call[StackRedemption]:
        needs = requests.stack(redeemables)
        return self._redeem(needs, session, redemption_id, if_session_missing, replies.stack_redemption)

    def _redeem(
        self,
        needs: Sequence[Need],
        session: SessionLike | str | None,
        redemption_id: str | None,
        if_session_missing: IfSessionMissing,
        result: Callable[[list[Redemption]], T],
    ) -> Call[T]:
        if_session_missing = requests.check_if_session_missing("if_session_missing", if_session_missing)
        key = None if session is None else requests.session_key(session)
        id_ = "rdm_" + random_text(32) if redemption_id is None else check_text("redemption_id", redemption_id)
        codes = tuple(need.code for need in needs)
        call = random_word()
        receipt_ttl_ms = "" if self._receipt_ttl_ms is None else self._receipt_ttl_ms
        args: list[Arg] = [call, (key or "").encode(), if_session_missing, receipt_ttl_ms]
        for need in needs:
            args += "-" if need.credits is None else need.credits, "-" if need.points is None else need.points
        return Call(
            verb="redeem",
            codes=codes,
            script=scripts.REDEEM,
            keys=self._keys.sessions_and_redemptions(codes, key or "", id_),
            args=args,
            read=lambda reply: result(replies.redemptions(needs, key, id_, call, reply)),
            session_key=key,
            redemption_id=id_,
        )

    def release(self, code: str, session_key: str) -> Call[Release]:
        return self._release((check_text("code", code),), session_key, lambda *reply: replies.releases(*reply)[0])

    def release_stack(self, codes: Sequence[str], session_key: str) -> Call[list[Release]]:
        return self._release(check_codes("codes", codes), session_key, replies.releases)

    def _release(
        self, codes: tuple[str, ...], session_key: str, read: Callable[[tuple[str, ...], str, Reply], T]
    ) -> Call[T]:
        session_key = check_text("session_key", session_key)
        return Call(
            verb="release",
            codes=codes,
            script=scripts.RELEASE,
            keys=self._keys.sessions(codes, session_key),
            args=[random_word(), session_key.encode()],
            read=partial(read, codes, session_key),
            session_key=session_key,
        )

    def rollback(self, code: str, redemption_id: str) -> Call[Rollback]:
        return self._rollback((check_text("code", code),), redemption_id, lambda *reply: replies.rollbacks(*reply)[0])

    def rollback_stack(self, codes: Sequence[str], redemption_id: str) -> Call[list[Rollback]]:
        return self._rollback(check_codes("codes", codes), redemption_id, replies.rollbacks)

    def _rollback(
        self, codes: tuple[str, ...], redemption_id: str, read: Callable[[tuple[str, ...], str, str, Reply], T]
    ) -> Call[T]:
        redemption_id = check_text("redemption_id", redemption_id)
        call = random_word()
        return Call(
            verb="rollback",
            codes=codes,
            script=scripts.ROLLBACK,
            keys=self._keys.redemptions(codes, redemption_id),
            args=[call],
            read=partial(read, codes, redemption_id, call),
            redemption_id=redemption_id,
        )

    def list_sessions(self, code: str, limit: int) -> Call[list[ActiveSession]]:
        code = check_text("code", code)
        return Call(
            verb="list_sessions",
            codes=(code,),
            script=scripts.LIST_SESSIONS,
            keys=self._keys.voucher(code),
            args=[requests.check_list_limit("limit", limit)],
            read=replies.active_sessions,
            changes=False,
        )

    def get_redemption(self, code: str, redemption_id: str) -> Call[Redemption]:
        code = check_text("code", code)
        redemption_id = check_text("redemption_id", redemption_id)
        return Call(
            verb="get_redemption",
            codes=(code,),
            script=scripts.GET_REDEMPTION,
            keys=[self._keys.redemption(code, redemption_id)],
            args=[],
            read=partial(replies.redemption_of, code, redemption_id),
            changes=False,
            redemption_id=redemption_id,
        )

    def audit(self, code: str) -> Steps[Audit]:
        return audit.audit(self._keys, check_text("code", code))

    def repair(self, code: str) -> Steps[Audit]:
        return audit.repair(self._keys, check_text("code", code))
