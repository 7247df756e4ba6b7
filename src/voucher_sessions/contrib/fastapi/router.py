"""``create_router``: the endpoints over an engine of the application."""

# No postponed annotations here: the dependency below is known only when a router is created.
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request

from voucher_sessions import AsyncVoucherSessions, InvalidRequest, Session, VoucherSessions
from voucher_sessions.contrib.fastapi import endpoints
from voucher_sessions.contrib.fastapi.answers import (
    ErrorBody,
    RedemptionAnswer,
    RedemptionsAnswer,
    RollbackAnswer,
    RollbacksAnswer,
    ValidationAnswer,
    VoucherRedemptions,
)
from voucher_sessions.contrib.fastapi.routes import ContractRoute

EngineDependency = Callable[
    ...,
    AsyncVoucherSessions
    | Awaitable[AsyncVoucherSessions]
    | Iterator[AsyncVoucherSessions]
    | AsyncIterator[AsyncVoucherSessions],
]
"""A dependency of FastAPI that returns or yields an engine."""

_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": ErrorBody, "description": "The request is wrong, or was refused."},
    404: {"model": ErrorBody, "description": "There is no such voucher, session or redemption."},
    409: {"model": ErrorBody, "description": "The id of the order was used for another request."},
    503: {"model": ErrorBody, "description": "The Redis server did not answer. Repeat the request after Retry-After."},
    "default": {"model": ErrorBody, "description": "Another error."},
}


def create_router(
    engine: AsyncVoucherSessions | EngineDependency,
    *,
    max_ttl: float | timedelta | None = None,
    redemptions: bool = True,
) -> APIRouter:
    """Create a router with which clients validate, redeem, release and roll back vouchers over HTTP.

    Include it in an application: ``app.include_router(create_router(engine))``. The router checks no permission, so add
    the application's own dependency for that: ``include_router(..., dependencies=[Depends(check)])``. It answers errors
    of the engine and wrong input itself.

    Args:
        engine: An ``AsyncVoucherSessions``, or a dependency of FastAPI that returns or yields one. The router does not
            close it.
        max_ttl: Seconds, or a timedelta: the longest time to live that a session may ask for. A session without ``ttl``
            then lives that long. It must not be longer than the engine's own ``max_ttl``. None: what the engine
            allows. Set it to minutes if browsers can reach the router.
        redemptions: False: a router for browsers, which can validate and release, but neither redeem nor roll back.

    Returns:
        The router. Its paths begin with ``/v1``.

    Raises:
        InvalidRequest: ``engine`` is a sync engine, or neither an engine nor a function, or ``max_ttl`` is wrong.
    """
    provide = _provider(engine, None if max_ttl is None else _seconds(max_ttl))
    router = APIRouter(
        prefix="/v1",
        route_class=ContractRoute,
        dependencies=[Depends(provide)],
        responses=_RESPONSES,
        tags=["vouchers"],
    )
    _add(router, "POST", "/validations", endpoints.validate, ValidationAnswer)
    _add(router, "DELETE", "/vouchers/{code:path}/sessions/{session_key:path}", endpoints.release_session, None)
    if redemptions:
        _add(router, "POST", "/redemptions", endpoints.redeem, RedemptionsAnswer)
        _add(router, "GET", "/redemptions/{redemption_id:path}", endpoints.get_redemption, RedemptionAnswer)
        _add(router, "POST", "/redemptions/{redemption_id:path}/rollback", endpoints.rollback, RollbackAnswer)
        _add(router, "POST", "/redemptions/{parent_id:path}/rollbacks", endpoints.rollback_all, RollbacksAnswer)
        _add(router, "GET", "/vouchers/{code:path}/redemption", endpoints.get_voucher_redemptions, VoucherRedemptions)
    return router


def _add(router: APIRouter, method: str, path: str, endpoint: Callable[..., Any], answer: type | None) -> None:
    router.add_api_route(
        path,
        endpoint,
        methods=[method],
        status_code=200 if answer else 204,
        response_model=answer,
        response_model_exclude_none=True,
    )


def _provider(engine: AsyncVoucherSessions | EngineDependency, max_ttl: float | None) -> Callable[..., Awaitable[None]]:
    """The router's own dependency, which gives the engine to the endpoints."""
    if isinstance(engine, VoucherSessions):
        raise InvalidRequest("engine", "is a sync engine, which would block the event loop: use AsyncVoucherSessions")
    if isinstance(engine, AsyncVoucherSessions):

        async def provide(request: Request) -> None:
            request.state.voucher_sessions_context = endpoints.Context(engine, max_ttl)

        return provide
    if not callable(engine):
        raise InvalidRequest("engine", "must be an AsyncVoucherSessions, or a dependency that returns or yields one")

    async def provide_found(request: Request, found: Annotated[object, Depends(engine)]) -> None:
        if not isinstance(found, AsyncVoucherSessions):
            raise TypeError(f"the dependency of create_router must return an AsyncVoucherSessions, not {type(found)}")
        request.state.voucher_sessions_context = endpoints.Context(found, max_ttl)

    return provide_found


def _seconds(max_ttl: float | timedelta) -> float:
    """The checked option, in seconds."""
    seconds = max_ttl.total_seconds() if isinstance(max_ttl, timedelta) else max_ttl
    try:
        Session(ttl=seconds, ttl_unit="SECONDS")
    except InvalidRequest as error:
        raise InvalidRequest("max_ttl", error.problem) from None
    return seconds
