"""The bodies of answers. Their descriptions are shown on the page of the API. What is None is left out."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class OrderToRepeat(BaseModel):
    """The order of the request to repeat."""

    source_id: str = Field(description="The id to send as order.source_id.")


class SessionToRepeat(BaseModel):
    """The session of the request to repeat."""

    key: str = Field(description="The key to send as session.key. It was generated for this request.")


class ErrorBody(BaseModel):
    """What went wrong."""

    code: int = Field(description="The HTTP status.")
    key: str = Field(description="The kind of error, for programs.")
    message: str = Field(description="The kind of error, for people.")
    details: str | None = Field(default=None, description="What the error is about, and what to do.")
    request_id: str | None = Field(
        default=None, description="The id of this error, which the log of the service has too."
    )
    resource_id: str | None = Field(default=None, description="The id or the code of what the error is about.")
    resource_type: str | None = Field(default=None, description="What it is: voucher, session or redemption.")
    locked_by_others: bool | None = Field(
        default=None, description="True: other sessions have locked what is missing, so that a later try can succeed."
    )
    retry_after_ms: int | None = Field(
        default=None, description="Milliseconds until the next of those sessions expires."
    )
    order: OrderToRepeat | None = Field(
        default=None, description="If the outcome is unknown: repeat the request with this."
    )
    session: SessionToRepeat | None = Field(
        default=None, description="If the outcome is unknown: repeat the request with it."
    )
    redemption_id: str | None = Field(
        default=None, description="If the outcome is unknown: repeat the call with this id."
    )
    rollback_id: str | None = Field(
        default=None, description="If the outcome is unknown: repeat the call with this id."
    )
    adjustment_id: str | None = Field(
        default=None, description="If the outcome is unknown: repeat the call with this id."
    )


class Credits(BaseModel):
    """What is taken from a gift card."""

    credits: int = Field(description="Credits, in minor units (cents).")


class Points(BaseModel):
    """What is taken from a loyalty card, or given back to it as a negative number."""

    points: int = Field(description="Points.")


class RedeemableResult(BaseModel):
    """What a voucher gives, or why it gives nothing. Empty for a discount, and for a voucher that was skipped."""

    gift: Credits | None = None
    loyalty_card: Points | None = None
    error: ErrorBody | None = None


class RedeemableAnswer(BaseModel):
    """The result for one voucher."""

    status: Literal["APPLICABLE", "INAPPLICABLE", "SKIPPED"] = Field(
        description="SKIPPED: this voucher could be redeemed, but another one of the request could not."
    )
    id: str = Field(description="The code of the voucher.")
    object: Literal["voucher"] = "voucher"
    result: RedeemableResult


class SessionAnswer(BaseModel):
    """The session that has locked the vouchers."""

    key: str = Field(description="The key of the session.")
    type: str = Field(description="LOCK.")
    ttl: int | float | None = Field(description="How long the session lives from now on, in ttl_unit.")
    ttl_unit: str | None = Field(description="The unit of ttl.")


class ValidationAnswer(BaseModel):
    """Whether the vouchers can be redeemed. If not all of them can, nothing was locked or changed."""

    valid: bool = Field(description="True: all vouchers can be redeemed; with a session, they are now locked.")
    redeemables: list[RedeemableAnswer] = Field(description="The result for each voucher, in the order of the request.")
    inapplicable_redeemables: list[RedeemableAnswer] | None = Field(
        default=None, description="The vouchers that cannot be redeemed."
    )
    session: SessionAnswer | None = None
    stacking_rules: dict[str, int] = Field(default_factory=dict, description="Always empty.")
    locked_by_others: bool | None = Field(
        default=None,
        description="True: all that is missing is locked by other sessions, so that a later try can succeed.",
    )
    retry_after_ms: int | None = Field(default=None, description="Milliseconds after which a later try can succeed.")


class SessionOfRedemption(BaseModel):
    """The session that was redeemed."""

    key: str = Field(description="The key of the session.")


class AmountTaken(BaseModel):
    """Credits that were taken from a gift card, or given back to it as a negative number."""

    amount: int = Field(description="Credits, in minor units (cents).")


class GiftBalance(BaseModel):
    """A gift card, as it is now."""

    amount: int = Field(description="All the credits that it can give, in minor units (cents).")
    balance: int = Field(description="The credits that were not redeemed. Sessions may have locked some of them.")


class LoyaltyBalance(BaseModel):
    """A loyalty card, as it is now."""

    points: int = Field(description="All the points that it can give.")
    balance: int = Field(description="The points that were not redeemed. Sessions may have locked some of them.")


class VoucherAnswer(BaseModel):
    """The voucher, as it is now."""

    object: Literal["voucher"] = "voucher"
    code: str
    type: Literal["GIFT_VOUCHER", "LOYALTY_CARD", "DISCOUNT_VOUCHER"] | None = None
    gift: GiftBalance | None = None
    loyalty_card: LoyaltyBalance | None = None


class RedemptionAnswer(BaseModel):
    """What was taken from a voucher; or, of several vouchers, the redemption as a whole."""

    id: str = Field(description="The id of the redemption, to get it or to roll it back.")
    object: Literal["redemption"] = "redemption"
    date: datetime = Field(description="When it was redeemed, in UTC, by the clock of the Redis server.")
    amount: int | None = Field(default=None, description="The credits or points taken.")
    redemption: str | None = Field(
        default=None, description="The id of the parent redemption, if there were several vouchers."
    )
    result: Literal["SUCCESS"] = "SUCCESS"
    status: Literal["SUCCEEDED", "FAILED", "ROLLED_BACK"]
    session: SessionOfRedemption | None = None
    related_object_type: Literal["voucher", "redemption"]
    related_object_id: str | None = None
    gift: AmountTaken | None = None
    loyalty_card: Points | None = None
    voucher: VoucherAnswer | None = None


class RedemptionsAnswer(BaseModel):
    """The redemptions, in the order of the request."""

    redemptions: list[RedemptionAnswer]
    parent_redemption: RedemptionAnswer | None = Field(default=None, description="If there were several vouchers.")


class VoucherRedemptions(BaseModel):
    """How often a voucher was redeemed."""

    object: Literal["list"] = "list"
    quantity: int | None = Field(default=None, description="How often it can be redeemed. Left out: without limit.")
    redeemed_quantity: int = Field(description="How often it was redeemed, without what was rolled back.")
    redemption_entries: list[RedemptionAnswer] = Field(
        default_factory=list, description="Always empty: the redemptions of a voucher are not listed."
    )


class RollbackAnswer(BaseModel):
    """What was given back to a voucher; or, of several vouchers, the rollback as a whole."""

    id: str
    object: Literal["redemption_rollback"] = "redemption_rollback"
    date: datetime = Field(description="When it was answered, in UTC.")
    amount: int | None = Field(default=None, description="The credits or points given back, as a negative number.")
    redemption: str = Field(description="The id of the redemption that was rolled back.")
    reason: str | None = Field(default=None, description="The reason that the request gave.")
    result: Literal["SUCCESS"] = "SUCCESS"
    status: Literal["SUCCEEDED"] = "SUCCEEDED"
    gift: AmountTaken | None = None
    loyalty_card: Points | None = None


class RollbacksAnswer(BaseModel):
    """The rollbacks, in the order of the vouchers' codes."""

    rollbacks: list[RollbackAnswer]
    parent_rollback: RollbackAnswer | None = Field(default=None, description="If there were several vouchers.")
