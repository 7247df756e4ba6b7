"""Health views for load balancers and Kubernetes: whether the server of the vouchers answers."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from redis.exceptions import RedisClusterException, RedisError

from voucher_sessions.contrib.django.engines import get_async_engine, get_engine


@require_safe
@never_cache
def health(request: HttpRequest) -> JsonResponse:
    """Answer 200 ``{"status": "ok"}``, or 503 ``{"status": "unavailable"}`` while the server does not answer."""
    try:
        get_engine().ping()
    except (RedisError, RedisClusterException):
        return _unavailable()
    return _ok()


@require_safe
@never_cache
async def async_health(request: HttpRequest) -> JsonResponse:
    """The same in an event loop."""
    try:
        await get_async_engine().ping()
    except (RedisError, RedisClusterException):
        return _unavailable()
    return _ok()


def _ok() -> JsonResponse:
    return JsonResponse({"status": "ok"})


def _unavailable() -> JsonResponse:
    return JsonResponse({"status": "unavailable"}, status=503)
