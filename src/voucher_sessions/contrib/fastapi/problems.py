"""From errors to HTTP: the status, the body and the headers."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError

from voucher_sessions import (
    Adjustment,
    AdjustmentConflict,
    AdjustmentRefused,
    AmountRequired,
    CorruptState,
    CrossSlotStack,
    InvalidRequest,
    LimitExceeded,
    NotDurable,
    OutcomeUnknown,
    Redemption,
    RedemptionConflict,
    RedemptionNotFound,
    RedemptionRolledBack,
    Rollback,
    RollbackExceeded,
    ServerRefused,
    ServerUnavailable,
    SessionNotFound,
    StackRedemption,
    UnknownFormat,
    VoucherExists,
    VoucherNotFound,
    VoucherSessionsError,
)
from voucher_sessions.contrib.fastapi.answers import ErrorBody, OrderToRepeat, SessionToRepeat

log = logging.getLogger(__name__)

RETRY_MS: Final = 1000  # when a server that did not answer may be tried again
_MAX_DETAILS: Final = 1000


def new_request_id() -> str:
    """An id with which an answer can be found in the log."""
    return f"v-{secrets.token_hex(8)}"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is answered in place of a result."""

    status: int
    key: str
    details: str
    resource_type: str | None = None
    resource_id: str | None = None
    locked_by_others: bool | None = None
    retry_after_ms: int | None = None
    order: OrderToRepeat | None = None
    session: SessionToRepeat | None = None
    ids: dict[str, str] = field(default_factory=dict[str, str])  # what repeats a call whose outcome is unknown
    request_id: str = field(default_factory=new_request_id)

    @property
    def body(self) -> ErrorBody:
        """The body of the answer."""
        # An error of the application can have any text, also one that UTF-8 cannot encode.
        details = self.details[:_MAX_DETAILS].encode(errors="backslashreplace").decode()
        return ErrorBody(
            code=self.status,
            key=self.key,
            message=self.key.replace("_", " "),
            details=details,
            request_id=self.request_id,
            resource_id=self.resource_id,
            resource_type=self.resource_type,
            locked_by_others=self.locked_by_others,
            retry_after_ms=self.retry_after_ms,
            order=self.order,
            session=self.session,
            redemption_id=self.ids.get("redemption_id"),
            rollback_id=self.ids.get("rollback_id"),
            adjustment_id=self.ids.get("adjustment_id"),
        )

    @property
    def response(self) -> JSONResponse:
        """The answer."""
        headers = retry_after(RETRY_MS if self.status == 503 else self.retry_after_ms)
        return JSONResponse(self.body.model_dump(exclude_none=True), self.status, headers)


def retry_after(ms: int | None) -> dict[str, str]:
    """The header for this many milliseconds, in whole seconds, rounded up; none for None."""
    return {} if ms is None else {"Retry-After": str(-(-ms // 1000))}


class _Row(NamedTuple):
    """How one kind of error is answered. Without ``details``, the text of the error is shown."""

    kind: type[VoucherSessionsError]
    status: int
    key: str
    details: str | None = None
    resource_type: str | None = None


# The first row that matches is used. The texts of the last errors are for the operator, and only the log shows them.
_ROWS: Final = (
    _Row(
        SessionNotFound,
        404,
        "not_found",
        "The session is not live: it has expired, was released or redeemed, or never was. Validate again.",
        "session",
    ),
    _Row(RedemptionNotFound, 404, "not_found", "There is no such redemption.", "redemption"),
    _Row(AmountRequired, 400, "missing_amount"),
    _Row(CrossSlotStack, 400, "invalid_redeemables"),
    _Row(InvalidRequest, 400, "invalid_payload"),
    _Row(RedemptionRolledBack, 400, "already_rolled_back", None, "redemption"),
    _Row(RedemptionConflict, 409, "duplicate_found", None, "redemption"),
    _Row(AdjustmentConflict, 409, "duplicate_found"),
    _Row(VoucherExists, 409, "duplicate_found", None, "voucher"),
    _Row(RollbackExceeded, 400, "rollback_exceeded", None, "redemption"),
    _Row(AdjustmentRefused, 400, "adjustment_refused", None, "voucher"),
    _Row(ServerUnavailable, 503, "server_unavailable", "Nothing was changed. Repeat the request later."),
    _Row(ServerRefused, 503, "server_refused", "The Redis server refused the call; the log of this service says why."),
    _Row(
        OutcomeUnknown,
        503,
        "outcome_unknown",
        "The change may have been made. Repeat the same request, with the id or the key that this answer has.",
    ),
    _Row(
        NotDurable,
        503,
        "not_durable",
        "The outcome is not confirmed as durable. Repeat the same request, with the id or the key if this answer has one.",
    ),
    _Row(
        UnknownFormat,
        500,
        "unknown_format",
        "A newer version of this service has written what is stored: this one needs an upgrade.",
    ),
    _Row(CorruptState, 500, "corrupt_state", "What is stored cannot be read; the log of this service says more."),
    _Row(VoucherSessionsError, 500, "internal_error", "The log of this service says more."),
)


def problem_of(error: VoucherSessionsError) -> Problem:
    """How an error of the engine is answered."""
    if isinstance(error, LimitExceeded):
        return refusal(decisive(error.refusals))
    if isinstance(error, VoucherNotFound):
        return no_voucher(error.code)
    row = next(row for row in _ROWS if isinstance(error, row.kind))
    problem = Problem(
        status=row.status, key=row.key, details=row.details or str(error), resource_type=row.resource_type
    )
    if row.status >= 500:
        log.error("request %s: %s", problem.request_id, error)
    return problem


def problem_of_client(error: RedisError) -> Problem:
    """The answer for an error of redis-py that the engine does not translate, for example a wrong password."""
    problem = Problem(status=503, key="server_unavailable", details="The log of this service says more.")
    log.error("request %s: %s: %s", problem.request_id, type(error).__name__, error)
    return problem


def decisive(refusals: tuple[LimitExceeded, ...]) -> LimitExceeded:
    """The refusal that decides when a later try can succeed: one that no lock causes, or the one that lasts longest."""
    return max(refusals, key=lambda each: (not each.locked_by_others, each.retry_after_ms or 0))


def refusal(refused: LimitExceeded) -> Problem:
    """The answer to a redemption for which not enough is available."""
    return Problem(
        status=400,
        key=refused.reason,
        details=refused.code,
        resource_type="redemption",
        resource_id=f"rf_{secrets.token_hex(12)}",
        locked_by_others=refused.locked_by_others,
        retry_after_ms=refused.retry_after_ms,
    )


def no_voucher(code: str) -> Problem:
    """The answer for a code that does not exist."""
    return Problem(status=404, key="not_found", details=code, resource_type="voucher", resource_id=code)


def ids_to_repeat(error: Exception) -> dict[str, str]:
    """The ids that repeat a call that may have changed something. The session key is not among them."""
    match error:
        case OutcomeUnknown():
            ids = {
                "redemption_id": error.redemption_id,
                "rollback_id": error.rollback_id,
                "adjustment_id": error.adjustment_id,
            }
        case NotDurable(result=Redemption() | StackRedemption() as result):
            ids = {"redemption_id": result.id}
        case NotDurable(result=Rollback() as result):
            ids = {"redemption_id": result.redemption_id, "rollback_id": result.id}
        case NotDurable(result=Adjustment() as result):
            ids = {"adjustment_id": result.id}
        case _:
            ids = {}
    return {name: value for name, value in ids.items() if value is not None}


def problem_of_input(error: RequestValidationError) -> Problem:
    """The answer to a request whose body or parameters have the wrong form. Its values are not shown."""
    first = error.errors()[0]
    kind: str = first["type"]
    place = [] if kind == "json_invalid" else [str(each) for each in first["loc"][1:]]
    if place[-1:] in (["int"], ["float"]):  # of a union, pydantic also names the type that did not fit
        place.pop()
    if kind == "duplicated_redeemables":
        key = kind
    elif kind in ("too_short", "too_long", "literal_error") and place[-1] in ("redeemables", "object"):
        key = "invalid_redeemables"
    else:
        key = "invalid_payload"
    text = "must not be blank" if kind == "string_pattern_mismatch" else first["msg"]
    return Problem(status=400, key=key, details=f"{'.'.join(place) or 'body'}: {text}")


def install_error_handlers(app: FastAPI) -> None:
    """Answer the engine's errors in the endpoints of an application, with the right status and a JSON body.

    In an endpoint, an error of the engine that is not caught is otherwise answered with status 500. The endpoints of
    ``create_router`` need no handlers.

    A refused redemption is answered with 400, ``locked_by_others``, ``retry_after_ms`` and the header ``Retry-After``;
    what is not found with 404; an id that was used for another request with 409; a Redis server that does not answer
    with 503 and ``Retry-After``. If the outcome is unknown, the body has the id that repeats the call, which the engine
    may have generated. No body has a session key: only the application can decide whether the client may know it.

    Args:
        app: The application.
    """

    async def answer(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, VoucherSessionsError)
        return replace(problem_of(error), ids=ids_to_repeat(error)).response

    app.add_exception_handler(VoucherSessionsError, answer)
