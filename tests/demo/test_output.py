"""The final table and the lines around it."""

from __future__ import annotations

import pytest

from demo.examples import (
    FinishedRun,
    a_balance,
    a_cart,
    a_redemption,
    a_state,
    checks_in,
    keep_abandoned_session_live,
    remove_session_of_killed_worker,
    rows_in,
)
from voucher_sessions.demo.carts import DISCOUNT, GIFT_CARD, LOYALTY_CARD
from voucher_sessions.demo.checkout import Report, Status
from voucher_sessions.demo.checks import audit
from voucher_sessions.demo.output import Display, outcome_of, print_interrupted, table_rows


@pytest.mark.parametrize("redeemed", [True, False])
def test_the_receipt_decides_what_became_of_an_interrupted_redemption(
    redeemed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = FinishedRun()
    for code in (DISCOUNT, LOYALTY_CARD):
        run.stored.states[code] = a_state(0, 0).model_copy(update={"code": code, "quantity": a_balance(0, 0, 50)})
        run.stored.sessions[code] = []
    if redeemed:
        run.stored.receipts["order-3"] = a_redemption(id="order-3", credits=7)
        remove_session_of_killed_worker(run)
        run.stored.states[GIFT_CARD] = a_state(17, 7).model_copy(update={"quantity": a_balance(2, 1, None)})
    print_interrupted(run.carts, run.stored, run.reports)
    display = Display()
    display.show_table(table_rows(run.carts, run.stored, run.reports))
    for check in audit(run.stored, run.snapshots, run.reports):
        display.show_check(check)
    output = capsys.readouterr().out
    result = "a receipt" if redeemed else "no receipt"
    assert output.startswith(f"order-3 was sent when its worker was killed: Redis has {result} for it.\n")
    rows = rows_in(output)
    assert rows["carts redeemed"] == [0, 2 if redeemed else 1, 0]
    assert rows["carts interrupted"] == [0, 0 if redeemed else 1, 0]
    assert rows["carts expired"] == [0, 1, 0]
    assert rows["carts still locked"] == [0, 1, 0]
    assert rows["second payments replayed"] == [0, 1, 0]
    assert set(checks_in(output).values()) == {"ok"}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (Status.REDEEMING, "interrupted"),
        (Status.UNKNOWN, "interrupted"),
        (Status.REDEEMED, "interrupted"),  # without a receipt: the audit reports it
        (Status.LOCKED_BY_OTHERS, "refused (locked by others)"),
        (Status.USED_UP, "refused (used up)"),
        (Status.RELEASED, "released"),
        (Status.ABANDONED, "expired"),
        (Status.KEPT_LOCKED, "expired"),  # the audit reports this one, too
        (None, "interrupted"),
    ],
)
def test_without_a_receipt_the_last_report_decides(status: Status | None, outcome: str) -> None:
    run = FinishedRun()
    cart = a_cart(order_id="order-5")
    if status is not None:
        run.reports.add(Report(cart, status, "its-key"))
    assert outcome_of(cart, run.stored, run.reports) == outcome
    run.stored.receipts["order-5"] = a_redemption(id="order-5")
    assert outcome_of(cart, run.stored, run.reports) == "redeemed"


def test_a_session_that_is_live_is_not_counted_as_expired() -> None:
    run = FinishedRun()
    keep_abandoned_session_live(run)
    assert outcome_of(run.carts[1], run.stored, run.reports) == "still locked"
