"""Builds the answers from what the engine returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from voucher_sessions import (
    ActiveSession,
    Balance,
    Redemption,
    Rollback,
    StackValidation,
    Validation,
    VoucherState,
)
from voucher_sessions.contrib.fastapi.answers import (
    AmountTaken,
    Credits,
    GiftBalance,
    LoyaltyBalance,
    Points,
    RedeemableAnswer,
    RedeemableResult,
    RedemptionAnswer,
    RedemptionsAnswer,
    RollbackAnswer,
    RollbacksAnswer,
    SessionAnswer,
    SessionOfRedemption,
    ValidationAnswer,
    VoucherAnswer,
)
from voucher_sessions.contrib.fastapi.ids import RedemptionRef
from voucher_sessions.contrib.fastapi.problems import Problem, new_request_id, no_voucher
from voucher_sessions.contrib.fastapi.request_bodies import RedeemableBody


def validation_answer(redeemables: Sequence[RedeemableBody], result: StackValidation) -> ValidationAnswer:
    """The answer to a validation."""
    pairs = list(zip(redeemables, result.validations, strict=True))
    if result.valid:
        applicable = [_redeemable(each.code, "APPLICABLE", _given(asked)) for asked, each in pairs]
        return ValidationAnswer(valid=True, redeemables=applicable, session=_session(result.session))
    request_id = new_request_id()
    answers = [_redeemable(each.code, *_refusal(each, request_id)) for _, each in pairs]
    refused = [each for _, each in pairs if not each.valid]
    locked_by_others = all(each.locked_by_others for each in refused)
    return ValidationAnswer(
        valid=False,
        redeemables=answers,
        inapplicable_redeemables=[each for each in answers if each.status == "INAPPLICABLE"],
        locked_by_others=locked_by_others,
        # All of them must have been released or have expired before the stack can be valid.
        retry_after_ms=max(each.retry_after_ms or 0 for each in refused) if locked_by_others else None,
    )


def _redeemable(
    code: str, status: Literal["APPLICABLE", "INAPPLICABLE", "SKIPPED"], result: RedeemableResult
) -> RedeemableAnswer:
    return RedeemableAnswer(id=code, status=status, result=result)


def _given(asked: RedeemableBody) -> RedeemableResult:
    """What a valid voucher gives: the amounts that the request names."""
    return RedeemableResult(
        gift=Credits(credits=asked.credits) if asked.credits else None,
        loyalty_card=Points(points=asked.points) if asked.points else None,
    )


def _session(session: ActiveSession | None) -> SessionAnswer | None:
    if session is None:
        return None
    return SessionAnswer(key=session.key, type=session.type, ttl=session.ttl, ttl_unit=session.ttl_unit)


def _refusal(validation: Validation, request_id: str) -> tuple[Literal["INAPPLICABLE", "SKIPPED"], RedeemableResult]:
    if validation.reason is None:
        return "SKIPPED", RedeemableResult()
    if validation.reason == "not_found":
        problem = replace(no_voucher(validation.code), request_id=request_id)
        return "INAPPLICABLE", RedeemableResult(error=problem.body)
    problem = Problem(
        status=400,
        key=validation.reason,
        details=validation.code,
        locked_by_others=validation.locked_by_others,
        retry_after_ms=validation.retry_after_ms,
        request_id=request_id,
    )
    return "INAPPLICABLE", RedeemableResult(error=problem.body)


def redemptions_answer(
    ref: RedemptionRef, redeemed: Sequence[Redemption], vouchers: Sequence[VoucherState | None]
) -> RedemptionsAnswer:
    """The answer to a redemption."""
    pairs = zip(redeemed, vouchers, strict=True)
    return RedemptionsAnswer(
        redemptions=[redemption_answer(ref.member(each.code), each, voucher) for each, voucher in pairs],
        parent_redemption=parent_redemption(ref, redeemed) if ref.is_parent else None,
    )


def redemption_answer(ref: RedemptionRef, redemption: Redemption, voucher: VoucherState | None) -> RedemptionAnswer:
    """The redemption of one voucher. ``voucher`` is None if it could not be read."""
    key, parent = redemption.session_key, ref.parent
    return RedemptionAnswer(
        id=ref.text,
        date=redemption.redeemed_at,
        amount=redemption.credits or redemption.points or None,
        redemption=parent.text if parent else None,
        status="ROLLED_BACK" if redemption.rolled_back else "SUCCEEDED",
        session=None if key is None else SessionOfRedemption(key=key),
        related_object_type="voucher",
        gift=AmountTaken(amount=redemption.credits) if redemption.credits else None,
        loyalty_card=Points(points=redemption.points) if redemption.points else None,
        voucher=VoucherAnswer(code=redemption.code) if voucher is None else _voucher(voucher),
    )


def parent_redemption(ref: RedemptionRef, redeemed: Sequence[Redemption]) -> RedemptionAnswer:
    """The redemption of several vouchers as a whole."""
    return RedemptionAnswer(
        id=ref.text,
        date=redeemed[0].redeemed_at,
        status="ROLLED_BACK" if all(each.rolled_back for each in redeemed) else "SUCCEEDED",
        related_object_type="redemption",
        related_object_id=ref.text,
    )


def _voucher(voucher: VoucherState) -> VoucherAnswer:
    """A voucher that has ever had credits is a gift card, and one with points a loyalty card."""
    credits, points = voucher.credits, voucher.points
    is_gift, is_loyalty = bool(credits.limit or credits.used), bool(points.limit or points.used)
    return VoucherAnswer(
        code=voucher.code,
        type="GIFT_VOUCHER" if is_gift else "LOYALTY_CARD" if is_loyalty else "DISCOUNT_VOUCHER",
        gift=GiftBalance(amount=credits.limit or 0, balance=_balance(credits)) if is_gift else None,
        loyalty_card=LoyaltyBalance(points=points.limit or 0, balance=_balance(points)) if is_loyalty else None,
    )


def _balance(balance: Balance) -> int:
    return max((balance.limit or 0) - balance.used, 0)


def rollbacks_answer(ref: RedemptionRef, rolled_back: Sequence[Rollback], reason: str | None) -> RollbacksAnswer:
    """The answer to the rollback of all vouchers of a redemption."""
    members = zip(ref.members, rolled_back, strict=True)
    answers = [rollback_answer(*member, reason) for member in members]
    parent = RollbackAnswer(id=ref.rollback_text, date=answers[0].date, redemption=ref.text, reason=reason)
    return RollbacksAnswer(
        rollbacks=answers,
        parent_rollback=parent if ref.is_parent else None,
    )


def rollback_answer(ref: RedemptionRef, rollback: Rollback, reason: str | None) -> RollbackAnswer:
    """The rollback of one voucher."""
    return RollbackAnswer(
        id=ref.rollback_text,
        date=datetime.now(UTC),
        amount=-(rollback.credits or rollback.points) or None,
        redemption=ref.text,
        reason=reason,
        gift=AmountTaken(amount=-rollback.credits) if rollback.credits else None,
        loyalty_card=Points(points=-rollback.points) if rollback.points else None,
    )
