"""The outcomes of the calls of a batch."""

from __future__ import annotations

from typing import Any

from redis.exceptions import BusyLoadingError

from voucher_sessions import ServerUnavailable, VoucherNotFound
from voucher_sessions._core import batch
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs

VERBS = Verbs(Keys("vs"), None)
LOADING = BusyLoadingError("LOADING")


def outcomes(*replies: Any) -> list[Any]:
    """Of ``get_voucher``, on one server; a list is what a script's reply has behind the call id."""
    calls = [VERBS.get_voucher(f"V{at}") for at in range(len(replies))]
    own = [
        [call.id.encode(), *reply] if type(reply) is list else reply for call, reply in zip(calls, replies, strict=True)
    ]
    return batch.outcomes(calls, [*own, calls[0].id.encode()], None, retried=False)


def test_a_call_that_came_before_the_server_had_loaded_its_data_has_not_run() -> None:
    """It is not sent again: calls behind it have run, which it might undo."""
    before, after = outcomes(LOADING, [b"voucher_missing", 1])
    assert isinstance(before, ServerUnavailable)
    assert isinstance(after, VoucherNotFound)


def test_no_call_is_sent_again_while_the_server_loads_its_data() -> None:
    assert [type(each) for each in outcomes(LOADING, LOADING)] == [ServerUnavailable] * 2
