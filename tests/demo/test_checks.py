"""The checks at the end: a run without problems, and then runs with one problem each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from demo.examples import (
    FinishedRun,
    a_balance,
    a_cart,
    a_redemption,
    a_session,
    a_state,
    keep_abandoned_session_live,
    remove_session_of_killed_worker,
)
from voucher_sessions import Balance, Voucher, VoucherSessions
from voucher_sessions.demo import checks
from voucher_sessions.demo.carts import DISCOUNT, GIFT_CARD, LOYALTY_CARD, SESSIONS
from voucher_sessions.demo.checkout import Report, Status
from voucher_sessions.demo.checks import StoredState, audit, wait_for_expiry


def problems_of(run: FinishedRun) -> list[list[str]]:
    return [check.problems for check in audit(run.stored, run.snapshots, run.reports)]


def over_limit(run: FinishedRun) -> None:
    not_negative = Balance(limit=100, used=10, locked=91, available=0)
    run.snapshots.insert(1, a_state(10, 91).model_copy(update={"credits": not_negative}))


def negative(run: FinishedRun) -> None:
    run.snapshots.insert(1, a_state(10, -1))


def wrong_used_credits(run: FinishedRun) -> None:
    run.stored.states[GIFT_CARD] = a_state(9, 14)


def wrong_used_quantity(run: FinishedRun) -> None:
    state = run.stored.states[GIFT_CARD]
    run.stored.states[GIFT_CARD] = state.model_copy(update={"quantity": a_balance(2, 2, None)})


def wrong_locked_credits(run: FinishedRun) -> None:
    run.stored.states[GIFT_CARD] = a_state(10, 15)


def another_amount(run: FinishedRun) -> None:
    run.reports.redemptions[1] = a_redemption(replayed=True, credits=11)


def receipt_of_a_refused_cart(run: FinishedRun) -> None:
    run.reports.add(Report(run.carts[0], Status.LOCKED_BY_OTHERS))


def receipt_without_report(run: FinishedRun) -> None:
    del run.reports.last_status["order-1"]


def redeemed_twice(run: FinishedRun) -> None:
    run.reports.redemptions[1] = a_redemption()


def kept_session_not_live(run: FinishedRun) -> None:
    run.stored.sessions[GIFT_CARD][1] = a_session("another")


PROBLEMS: list[tuple[Callable[[FinishedRun], None], int, str]] = [
    (over_limit, 0, "GIFT-CARD credits: 10 used + 91 locked of 100"),
    (negative, 1, "GIFT-CARD credits: limit=100 used=10 locked=-1 available=91"),
    (wrong_used_credits, 2, "GIFT-CARD: quantity, credits, points used (1, 9, 0), on receipts (1, 10, 0)"),
    (wrong_used_quantity, 2, "GIFT-CARD: quantity, credits, points used (2, 10, 0), on receipts (1, 10, 0)"),
    (wrong_locked_credits, 3, "GIFT-CARD: quantity, credits, points locked (2, 15, 0), of live sessions (2, 14, 0)"),
    (
        remove_session_of_killed_worker,
        3,
        "GIFT-CARD: quantity, credits, points locked (2, 14, 0), of live sessions (1, 7, 0)",
    ),
    (another_amount, 4, "order-1: reported "),
    (receipt_of_a_refused_cart, 5, "order-1: locked_by_others"),
    (receipt_without_report, 5, "order-1: None"),
    (redeemed_twice, 6, "order-1: redeemed 2 times"),
    (keep_abandoned_session_live, 7, "order-2: its session is still live"),
    (kept_session_not_live, 7, "order-4: its session is not live"),
]


def test_no_problem_is_found_in_a_correct_run() -> None:
    run = FinishedRun()
    assert problems_of(run) == [[]] * 8
    run.reports.add(Report(run.carts[0], Status.UNKNOWN))  # the second reply was lost: either outcome is allowed
    assert problems_of(run) == [[]] * 8


@pytest.mark.parametrize(("make_wrong", "at", "text"), PROBLEMS, ids=[problem[0].__name__ for problem in PROBLEMS])
def test_one_problem_is_found_and_no_other(make_wrong: Callable[[FinishedRun], None], at: int, text: str) -> None:
    run = FinishedRun()
    make_wrong(run)
    problems = problems_of(run)
    (problem,) = problems.pop(at)
    assert problem.startswith(text)
    assert problems == [[]] * 7


def test_a_redemption_without_receipt_is_found() -> None:
    run = FinishedRun()
    run.stored.receipts.clear()
    first, second = problems_of(run)[4]
    assert first.endswith("receipt None")
    assert second.endswith("receipt None")


def test_the_stored_state_has_every_voucher_session_and_receipt(shop: VoucherSessions) -> None:
    for code in (DISCOUNT, GIFT_CARD, LOYALTY_CARD):
        shop.put_voucher(Voucher(code=code, credits=100))
    sessions = [shop.validate(GIFT_CARD, credits=5, session=SESSIONS[i]).session for i in (0, 1)]
    receipt = shop.redeem(GIFT_CARD, credits=10, redemption_id="order-1")
    stored = StoredState.read(shop, [a_cart(), a_cart(order_id="order-2")])
    assert stored.receipts == {"order-1": receipt}
    assert stored.live_keys() == {session.key for session in sessions if session}
    assert stored.states[GIFT_CARD].credits == Balance(limit=100, used=10, locked=10, available=80)
    assert list(stored.states) == list(stored.sessions) == [DISCOUNT, GIFT_CARD, LOYALTY_CARD]


def test_waits_until_the_abandoned_sessions_have_expired_and_no_longer(shop: VoucherSessions) -> None:
    for code in (DISCOUNT, GIFT_CARD, LOYALTY_CARD):
        shop.put_voucher(Voucher(code=code))
    shop.validate(DISCOUNT, session=SESSIONS[2])
    shop.validate(LOYALTY_CARD, session={"type": "LOCK", "ttl": 80, "ttl_unit": "MILLISECONDS"})
    wait_for_expiry(shop)
    assert not shop.list_sessions(LOYALTY_CARD)
    assert shop.list_sessions(DISCOUNT)


def test_does_not_wait_for_ever(shop: VoucherSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ABANDONED_SECONDS", -0.95)
    for code in (DISCOUNT, GIFT_CARD, LOYALTY_CARD):
        shop.put_voucher(Voucher(code=code))
    shop.validate(DISCOUNT, session={"type": "LOCK", "ttl": 30, "ttl_unit": "SECONDS"})
    wait_for_expiry(shop)
    assert shop.list_sessions(DISCOUNT)
