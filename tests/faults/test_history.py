"""The checker of histories: some must pass, some must fail, and on small ones it agrees with trying all orders."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from servers import BINARIES, running

from faults.history import Recorder, load
from faults.linearizable import check
from voucher_sessions import LimitExceeded, Voucher, VoucherSessions


def test_a_recorded_history_of_one_thread_passes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(next(iter(BINARIES))) as server, server.client() as client:
        engine, recorder = VoucherSessions(client), Recorder("one", log)
        recorder.call(engine, "put_voucher", Voucher(code="A", quantity=3, credits=10))
        answer = recorder.call(engine, "validate", "A", credits=4, session={"type": "LOCK"})
        recorder.call(engine, "list_sessions", "A")
        with pytest.raises(LimitExceeded):
            recorder.call(engine, "redeem", "A", credits=7)
        recorder.call(engine, "redeem", "A", session=answer.session.key, redemption_id="order")
        assert recorder.call(engine, "redeem", "A", session=answer.session.key, redemption_id="order").replayed
        recorder.call(engine, "rollback", "A", "order")
        recorder.call(engine, "get_redemption", "A", "order")
        recorder.call(engine, "release", "A", answer.session.key)
        recorder.call(engine, "get_voucher", "A")
        recorder.call(engine, "delete_voucher", "A")
        recorder.close()
    assert len(recorder.history) == 11
    assert load([log]) == recorder.history == pickle.loads(pickle.dumps(recorder.history))
    check(recorder.history)
    for op in recorder.history:
        assert op.seen is not None, op
