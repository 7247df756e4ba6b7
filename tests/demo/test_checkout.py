"""What the checkout does with one cart."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from demo.examples import a_cart
from voucher_sessions import OutcomeUnknown, VoucherSessions
from voucher_sessions.demo.carts import ABANDONED_SESSION, GIFT_CARD, SESSIONS, Ending
from voucher_sessions.demo.checkout import Report, Status, serve


def statuses(reports: Iterable[Report]) -> list[Status]:
    return [report.status for report in reports]


def used_and_locked(shop: VoucherSessions) -> tuple[int, int]:
    credits = shop.get_voucher(GIFT_CARD).credits
    return credits.used, credits.locked


def test_a_cart_that_pays(gift_card: VoucherSessions) -> None:
    redeeming, redeemed = serve(gift_card, a_cart())
    assert statuses([redeeming, redeemed]) == [Status.REDEEMING, Status.REDEEMED]
    assert redeemed.redemption == gift_card.get_redemption(GIFT_CARD, "order-1")
    assert used_and_locked(gift_card) == (10, 0)


def test_a_cart_that_pays_twice_is_redeemed_once(gift_card: VoucherSessions) -> None:
    reports = list(serve(gift_card, a_cart(ending=Ending.PAYS_TWICE)))
    assert statuses(reports) == [Status.REDEEMING, Status.REDEEMED] * 2
    assert [report.redemption.replayed for report in reports if report.redemption] == [False, True]
    assert used_and_locked(gift_card) == (10, 0)


@pytest.mark.parametrize(("credits", "paid"), [(10, 20), (15, 15)], ids=["granted", "refused"])
def test_a_cart_that_changes_overrides_its_lock_and_pays(credits: int, paid: int, gift_card: VoucherSessions) -> None:
    reports = list(serve(gift_card, a_cart(ending=Ending.CHANGES_AND_PAYS, credits=credits)))
    assert statuses(reports) == [Status.REDEEMING, Status.REDEEMED]
    assert used_and_locked(gift_card) == (paid, 0)


def test_a_cart_that_releases(gift_card: VoucherSessions) -> None:
    assert statuses(serve(gift_card, a_cart(ending=Ending.RELEASES))) == [Status.RELEASED]
    assert used_and_locked(gift_card) == (0, 0)


def test_a_cart_that_is_abandoned_stays_locked_until_it_expires(gift_card: VoucherSessions) -> None:
    (report,) = serve(gift_card, a_cart(ending=Ending.ABANDONS, session=ABANDONED_SESSION))
    assert report.status is Status.ABANDONED
    (session,) = gift_card.list_sessions(GIFT_CARD)
    assert report.session_key == session.key
    assert session.remaining_ms <= 600
    assert used_and_locked(gift_card) == (0, 10)


def test_a_cart_that_keeps_its_lock(gift_card: VoucherSessions) -> None:
    (report,) = serve(gift_card, a_cart(ending=Ending.KEEPS_LOCK))
    (session,) = gift_card.list_sessions(GIFT_CARD)
    assert (report.status, report.session_key) == (Status.KEPT_LOCKED, session.key)
    assert session.remaining_ms > 6 * 86_400_000
    assert used_and_locked(gift_card) == (0, 10)


def test_a_refusal_says_whether_others_hold_the_credits_or_they_are_used(gift_card: VoucherSessions) -> None:
    other = gift_card.validate(GIFT_CARD, credits=20, session={"type": "LOCK"})
    assert statuses(serve(gift_card, a_cart())) == [Status.LOCKED_BY_OTHERS]
    assert other.session is not None
    gift_card.redeem(GIFT_CARD, session=other.session.key)
    assert statuses(serve(gift_card, a_cart())) == [Status.USED_UP]


def test_a_session_that_another_tab_redeemed_may_leave_too_little(gift_card: VoucherSessions) -> None:
    serving = serve(gift_card, a_cart(session=SESSIONS[1]))
    assert next(serving).status is Status.REDEEMING
    gift_card.redeem(GIFT_CARD, credits=20, session=SESSIONS[1])
    assert statuses(serving) == [Status.USED_UP]
    assert used_and_locked(gift_card) == (20, 0)


def test_a_session_that_another_tab_redeemed_is_not_needed(gift_card: VoucherSessions) -> None:
    serving = serve(gift_card, a_cart(session=SESSIONS[1]))
    assert next(serving).status is Status.REDEEMING
    gift_card.redeem(GIFT_CARD, session=SESSIONS[1])
    assert statuses(serving) == [Status.REDEEMED]
    assert used_and_locked(gift_card) == (20, 0)


def test_a_lost_reply_leaves_the_outcome_unknown(gift_card: VoucherSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise OutcomeUnknown("redeem", (GIFT_CARD,), redemption_id="order-1")

    monkeypatch.setattr(gift_card, "redeem", lost)
    assert statuses(serve(gift_card, a_cart())) == [Status.REDEEMING, Status.UNKNOWN]
