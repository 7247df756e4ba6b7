"""The worker of examples/celery_worker, which kills itself with SIGKILL where the id of an order says so.

    celery --app examples.killed_worker worker

``1-worker-redeemed`` kills the whole worker after the voucher was redeemed, and before the task is acknowledged;
``process`` in the place of ``worker`` kills only the process that runs the task; ``begun`` kills before the call.
``1-reply-lost`` loses the reply. Each order does so once: the folder KILLS has a file for each that has done it.
"""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from typing import Any

from celery_worker import tasks

from voucher_sessions import OutcomeUnknown, VoucherSessions

app = tasks.app
app.conf.broker_transport_options = {"visibility_timeout": 1}
open_vouchers = tasks.vouchers


@cache
def vouchers() -> VoucherSessions:
    """The engine of the shop, with a method ``redeem`` that kills."""
    engine = open_vouchers()
    redeem = engine.redeem

    def killing_redeem(code: str, *, redemption_id: str, **options: Any) -> Any:
        victim, _, step = redemption_id.partition("-")[2].partition("-")
        if step == "begun" and is_first(redemption_id):
            kill(victim)
        result = redeem(code, redemption_id=redemption_id, **options)
        if step == "redeemed" and is_first(redemption_id):
            kill(victim)
        if step == "lost" and is_first(redemption_id):
            raise OutcomeUnknown("redeem", [code], options["session"], redemption_id)
        return result

    vars(engine)["redeem"] = killing_redeem
    return engine


def is_first(order_id: str) -> bool:
    try:
        Path(os.environ["KILLS"], order_id).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def kill(victim: str) -> None:
    """Kill this process, and first its parent, if it is to be the whole worker."""
    if victim == "worker":
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


tasks.vouchers = vouchers
