"""The endpoints. Their docstrings are shown on the page of the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, Final

from fastapi import Depends, Path, Query, Request, Response

from voucher_sessions import (
    AsyncVoucherSessions,
    InvalidRequest,
    NotDurable,
    OutcomeUnknown,
    Redeemable,
    Redemption,
    SessionFields,
    SessionNotFound,
    StackValidation,
    VoucherState,
)
from voucher_sessions.contrib.fastapi.answers import (
    OrderToRepeat,
    RedemptionAnswer,
    RedemptionsAnswer,
    RollbackAnswer,
    RollbacksAnswer,
    SessionToRepeat,
    ValidationAnswer,
    VoucherRedemptions,
)
from voucher_sessions.contrib.fastapi.building import (
    parent_redemption,
    redemption_answer,
    redemptions_answer,
    rollback_answer,
    rollbacks_answer,
    validation_answer,
)
from voucher_sessions.contrib.fastapi.ids import RedemptionRef, read_id
from voucher_sessions.contrib.fastapi.problems import Problem, ids_to_repeat, problem_of, retry_after
from voucher_sessions.contrib.fastapi.request_bodies import RedeemablesRequest, SessionBody

SECONDS_PER_UNIT: Final = {
    "DAYS": Decimal(86_400),
    "HOURS": Decimal(3_600),
    "MINUTES": Decimal(60),
    "SECONDS": Decimal(1),
    "MILLISECONDS": Decimal("1e-3"),
    "MICROSECONDS": Decimal("1e-6"),
    "NANOSECONDS": Decimal("1e-9"),
}


@dataclass(frozen=True, slots=True)
class Context:
    """What a router's endpoints work with. ``max_ttl`` is in seconds."""

    engine: AsyncVoucherSessions
    max_ttl: float | None


async def context_of(request: Request) -> Context:
    """The context that the router's own dependency has stored in the request."""
    context: Context = request.state.voucher_sessions_context
    return context


Current = Annotated[Context, Depends(context_of)]
Code = Annotated[str, Path(description="The code of the voucher, percent-encoded.")]
Key = Annotated[str, Path(description="The key of the session, percent-encoded.")]
Id = Annotated[str, Path(description="The id of the redemption, as in an answer.")]
ParentId = Annotated[str, Path(description="The id of the parent redemption, as in an answer.")]
Reason = Annotated[str | None, Query(description="Why. It is in the answer, and nowhere else.")]


async def validate(body: RedeemablesRequest, context: Current, response: Response) -> ValidationAnswer | Response:
    """Check whether vouchers can be redeemed and, with a session, lock them until the session expires.

    All vouchers are locked, or none. The answer has status 200 also if they cannot be redeemed: then `valid` is false,
    and each voucher has the reason. `locked_by_others` says that other sessions have locked what is missing, and
    `retry_after_ms` when the next of them expires.

    Validating again with the same session key replaces the amounts and the expiry. If that is refused, the session
    stays as it was.
    """
    session = None if body.session is None else session_to_lock(body.session, context.max_ttl)
    try:
        result = await context.engine.validate_stack(_redeemables(body), session=session)
    except (OutcomeUnknown, NotDurable) as error:
        if session is None or session.get("key") is not None:
            raise  # the client has the key
        return replace(problem_of(error), session=_generated_session(error)).response
    answer = validation_answer(body.redeemables, result)
    response.headers.update(retry_after(answer.retry_after_ms))
    return answer


def session_to_lock(session: SessionBody, max_ttl: float | None) -> SessionFields:
    """The session for the engine, with the limit of the router."""
    fields: SessionFields = {
        "type": session.type,
        "key": session.key,
        "ttl": session.ttl,
        "ttl_unit": session.ttl_unit,
    }
    if max_ttl is None:
        return fields
    if session.ttl is None and session.ttl_unit is None:
        return {**fields, "ttl": max_ttl, "ttl_unit": "SECONDS"}
    seconds = Decimal(str(session.ttl or 0)) * SECONDS_PER_UNIT[session.ttl_unit or "SECONDS"]
    if seconds > Decimal(str(max_ttl)):
        raise InvalidRequest("session.ttl", f"must be at most {max_ttl:g} seconds")
    return fields


def _generated_session(error: OutcomeUnknown | NotDurable) -> SessionToRepeat | None:
    """The session key that the engine generated for a call whose outcome the client does not know."""
    if isinstance(error, OutcomeUnknown):
        key = error.session_key
    else:
        session = error.result.session if isinstance(error.result, StackValidation) else None
        key = session.key if session else None
    return None if key is None else SessionToRepeat(key=key)


async def redeem(body: RedeemablesRequest, context: Current) -> RedemptionsAnswer | Response:
    """Redeem vouchers permanently, all or none, and end the session.

    With a session, what it has locked is redeemed, or the amounts of the request. `order.source_id` makes the request
    safe to repeat: the vouchers are redeemed once, and a repeated request gets the first answer. The same id with
    another request is refused with status 409; an id whose redemption was rolled back with `already_rolled_back`.

    If the session has expired, the request is refused with status 404, and nothing changes.
    """
    session = None if body.session is None else SessionFields(key=body.session.key)
    source_id = None if body.order is None else body.order.source_id
    try:
        result = await context.engine.redeem_stack(_redeemables(body), session=session, redemption_id=source_id)
    except (OutcomeUnknown, NotDurable) as error:
        # There is no id if the error is that of another call, which the engine's loader made.
        redemption_id = ids_to_repeat(error).get("redemption_id")
        order = None if redemption_id is None else OrderToRepeat(source_id=redemption_id)
        return replace(problem_of(error), order=order).response
    codes = [each.code for each in result.redemptions]
    ref = RedemptionRef(result.id, tuple(sorted(codes)))
    return redemptions_answer(ref, result.redemptions, await _vouchers(context.engine, codes))


def _redeemables(body: RedeemablesRequest) -> list[Redeemable]:
    return [Redeemable(code=each.id, credits=each.credits, points=each.points) for each in body.redeemables]


async def _vouchers(engine: AsyncVoucherSessions, codes: Sequence[str]) -> list[VoucherState | None]:
    """The vouchers as they are now; None for each that cannot be read: the redemption is answered all the same."""
    pipe = engine.pipeline()
    for code in codes:
        pipe.get_voucher(code)
    found = await pipe.execute(raise_on_error=False)
    return [each if isinstance(each, VoucherState) else None for each in found]


async def get_redemption(redemption_id: Id, context: Current) -> RedemptionAnswer | Response:
    """Get a redemption, also one that was rolled back.

    The id of a parent redemption gets the redemption of all its vouchers as a whole.
    """
    ref = read_id(redemption_id)
    if ref is None:
        return _no_redemption(redemption_id)
    if ref.is_parent:
        pipe = context.engine.pipeline()
        for code in ref.codes:
            pipe.get_redemption(code, ref.redemption_id)
        receipts = [each for each in await pipe.execute() if isinstance(each, Redemption)]  # or it raises an error
        return parent_redemption(ref, receipts)
    redemption = await context.engine.get_redemption(ref.code, ref.redemption_id)
    (voucher,) = await _vouchers(context.engine, [ref.code])
    return redemption_answer(ref, redemption, voucher)


def _no_redemption(redemption_id: str) -> Response:
    details = "This is not the id of a redemption: use an id from an answer of this service."
    return Problem(status=404, key="not_found", details=details, resource_type="redemption").response


async def get_voucher_redemptions(code: Code, context: Current) -> VoucherRedemptions:
    """Get how often a voucher was redeemed.

    The redemptions themselves are not listed: get each by its id.
    """
    quantity = (await context.engine.get_voucher(code)).quantity
    return VoucherRedemptions(quantity=quantity.limit, redeemed_quantity=quantity.used)


async def release_session(code: Code, session_key: Key, context: Current) -> None:
    """Release what a session has locked of a voucher, before the session expires.

    A repeated request is answered like the first one, for two minutes. If the session has expired or never existed, the
    answer is 404.
    """
    release = await context.engine.release(code, session_key)
    if not release.released and not release.ended:
        await context.engine.get_voucher(code)  # raises the error if it is the voucher that does not exist
        raise SessionNotFound(session_key, code)


async def rollback(redemption_id: Id, context: Current, reason: Reason = None) -> RollbackAnswer | Response:
    """Roll back the redemption of one voucher: give back what it took, once.

    A redemption of several vouchers is rolled back as a whole, with its parent's id. It is not rolled back twice: a
    repeated request is refused with `already_rolled_back`.
    """
    ref = read_id(redemption_id)
    if ref is None:
        return _no_redemption(redemption_id)
    if ref.is_parent or ref.position is not None:
        return _not_to_be_rolled_back(ref)
    result = await context.engine.rollback(ref.code, ref.redemption_id)
    return _rolled_back_before() if result.replayed else rollback_answer(ref, result, reason)


async def rollback_all(parent_id: ParentId, context: Current, reason: Reason = None) -> RollbacksAnswer | Response:
    """Roll back the redemption of several vouchers: give back what it took, on all of them or on none, once.

    The redemption of a single voucher can be rolled back in this way, too.
    """
    ref = read_id(parent_id)
    if ref is None:
        return _no_redemption(parent_id)
    if ref.position is not None:
        return _not_to_be_rolled_back(ref)
    results = await context.engine.rollback_stack(ref.codes, ref.redemption_id)
    if all(each.replayed for each in results):
        return _rolled_back_before()
    return rollbacks_answer(ref, results, reason)


def _not_to_be_rolled_back(ref: RedemptionRef) -> Response:
    if ref.position is None:
        key, details = "invalid_redemption", "It has several vouchers: roll it back with …/rollbacks."
    else:
        key, details = "invalid_redemption_parent", "It is a part of another redemption: roll that one back."
    return Problem(status=400, key=key, details=details, resource_type="redemption").response


def _rolled_back_before() -> Response:
    details = "Nothing was changed by this request."
    return Problem(status=400, key="already_rolled_back", details=details, resource_type="redemption").response
