"""A check for django-health-check 4. Name it in the ``checks`` of its ``HealthCheckView``."""

from __future__ import annotations

from dataclasses import dataclass

from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable

from voucher_sessions import ServerUnavailable
from voucher_sessions.contrib.django.engines import get_async_engine


@dataclass
class VoucherSessionsHealthCheck(HealthCheck):
    """Whether the server of the vouchers answers."""

    async def run(self) -> None:
        """Raise ``ServiceUnavailable`` if it does not."""
        try:
            await get_async_engine().ping()
        except ServerUnavailable as error:
            raise ServiceUnavailable("the server of the vouchers does not answer") from error
