"""A task that redeems the voucher of an order exactly once, also if workers are killed and Redis does not answer.

celery --app celery_worker.tasks worker
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cache
from typing import Any, Final

from celery import Celery

from celery_worker import orders
from voucher_sessions import NotDurable, OutcomeUnknown, ServerUnavailable, VoucherSessions

SERVER: Final = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/1")

app = Celery("shop", broker=SERVER, backend=SERVER)
app.conf.update(
    # A worker acknowledges a task when it has ended, so that the task of a killed worker is run again...
    task_acks_late=True,
    # ... by the worker itself if one of its processes is killed,
    task_reject_on_worker_lost=True,
    # ... or by another worker after this time if all of it is killed.
    broker_transport_options={"visibility_timeout": timedelta(minutes=5).total_seconds()},
    worker_prefetch_multiplier=1,
    beat_schedule={"pending orders": {"task": "celery_worker.tasks.queue_pending", "schedule": 60}},
)


@cache
def vouchers() -> VoucherSessions:
    """The engine of this process."""
    return VoucherSessions.from_url(os.environ.get("VOUCHER_SESSIONS_URL", "redis://localhost:6379/0"))


@app.task(
    # The call may have taken effect, or has not, or is perhaps not on disk: in all three cases, repeat the same call.
    autoretry_for=(OutcomeUnknown, ServerUnavailable, NotDurable),
    retry_backoff=True,
    retry_backoff_max=60,
    max_retries=20,
)
def redeem(order_id: str) -> dict[str, Any]:
    """Redeem the voucher of an order. However often this runs, the voucher pays once.

    The session key is not an argument of the task, and not part of its result: whoever knows it can redeem the lock, and
    arguments and results are in the broker, in logs and in monitors.
    """
    with orders.paying(order_id) as order:
        paid = vouchers().redeem(
            order.code,
            credits=order.credits,
            session=order.session_key,
            redemption_id=order.id,
            if_session_missing="redeem",  # a task can wait in its queue for longer than the lock lives
        )
    return paid.model_dump(mode="json", exclude={"session_key"})


@app.task
def queue_pending(older_than_seconds: float = 60) -> None:
    """Queue the orders that are pending once more: with Redis as its broker, Celery can lose a task.

    A worker takes a task from the queue, and notes in Redis that it has done so. If it is killed in between, the task is
    gone. That a task is queued twice does no harm.
    """
    for order_id in orders.pending(older_than_seconds):
        redeem.delay(order_id)
