"""A shop that grants nothing while its server is down, and whose health check says so."""

from __future__ import annotations

from typing import Self

from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from voucher_sessions import InvalidRequest, VoucherSessions, VoucherSessionsError

# A status code of HTTP, and the body.
Answer = tuple[int, dict[str, object]]


class Shop:
    """What the shop answers to two requests: is it ready, and may this cart have this voucher."""

    def __init__(self, url: str) -> None:
        # No customer waits longer than about two seconds: three tries of half a second, and the pauses between them.
        retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.2), 2)
        self._engine = VoucherSessions.from_url(url, max_ttl=900, socket_timeout=0.5, retry=retry)
        # A separate engine for health checks: it tries once, and waits for half a second at most.
        self._health = VoucherSessions.from_url(
            url, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._health.close()
        self._engine.close()

    def ready(self) -> Answer:
        """For the load balancer. ``RedisError`` is also raised for a wrong password."""
        try:
            self._health.ping()
        except RedisError as error:
            return 503, {"ready": False, "problem": type(error).__name__}
        return 200, {"ready": True}

    def lock(self, code: str, cart: str) -> Answer:
        """Lock a voucher for a cart. Whatever goes wrong, the cart gets nothing."""
        try:
            found = self._engine.validate(code, session={"type": "LOCK", "key": cart, "ttl": 15, "ttl_unit": "MINUTES"})
        except InvalidRequest as error:
            return 400, {"granted": False, "problem": str(error)}
        except (VoucherSessionsError, RedisError):
            # After OutcomeUnknown the voucher may be locked, but only for this cart: it tries again with the same key.
            return 503, {"granted": False, "retry": True}
        return 200, {"granted": found.valid, "reason": found.reason}
