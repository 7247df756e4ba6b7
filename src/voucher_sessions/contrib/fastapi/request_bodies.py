"""The bodies of requests. Their descriptions are shown on the page of the API.

A misspelt field next to an amount must not count as an amount that was left out, so redeemables, amounts and sessions
refuse fields that they do not know. Elsewhere such fields are ignored: client libraries send many more.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_STACK: Final = 30
Text = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=r"\S")]
Amount = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]
Ttl = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True, allow_inf_nan=False)]
TtlUnit = Literal["DAYS", "HOURS", "MINUTES", "SECONDS", "MILLISECONDS", "MICROSECONDS", "NANOSECONDS"]


class _Fields(BaseModel):
    """Fields that are all known."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class SessionBody(_Fields):
    """A session, which locks vouchers for one cart. A redemption uses only the key."""

    type: Literal["LOCK"] | None = Field(default=None, description="LOCK is the only type. Required to lock vouchers.")
    key: Text | None = Field(
        default=None,
        description="The key of the session: the same key in each request of one cart. Whoever knows it can redeem or "
        "release the session. Without a key, a validation generates one.",
    )
    ttl: Ttl | None = Field(
        default=None,
        description="How long the session lives, in ttl_unit: a number above 0. Give both or neither. Without them, it "
        "lives as long as this service has set, usually 7 days.",
    )
    ttl_unit: TtlUnit | None = Field(default=None, description="The unit of ttl.")


class Gift(_Fields):
    """What is taken from a gift card."""

    credits: Amount | None = Field(
        default=None,
        description="Credits in minor units (cents). Left out: none in a validation; in a redemption what the session "
        "has locked.",
    )


class Reward(_Fields):
    """What is taken from a loyalty card."""

    id: str | None = Field(default=None, description="Not used: the points decide.")
    points: Amount | None = Field(default=None, description="Points. Left out: as for credits.")

    @model_validator(mode="after")
    def _needs_points(self) -> Reward:
        """Refuse a reward of which only the id is given: its price is not known here, and 0 would be wrong."""
        if self.id is not None and self.points is None:
            raise PydanticCustomError("points_missing", "must name its points: rewards are not known here")
        return self


class RedeemableBody(_Fields):
    """One voucher of a request."""

    object: Literal["voucher"] = Field(default="voucher", description="Vouchers are the only redeemables.")
    id: Text = Field(description="The code of the voucher. Upper and lower case differ.")
    gift: Gift | None = Field(default=None, description="For a gift card.")
    reward: Reward | None = Field(default=None, description="For a loyalty card.")

    @property
    def credits(self) -> int | None:
        """The credits that the request names."""
        return self.gift.credits if self.gift else None

    @property
    def points(self) -> int | None:
        """The points that the request names."""
        return self.reward.points if self.reward else None


def _distinct(redeemables: list[RedeemableBody]) -> list[RedeemableBody]:
    if len({each.id for each in redeemables}) < len(redeemables):
        raise PydanticCustomError("duplicated_redeemables", "must not name a voucher twice")
    return redeemables


class Order(BaseModel):
    """The order of the request. Other fields of an order are ignored."""

    model_config = ConfigDict(hide_input_in_errors=True)

    source_id: Text | None = Field(
        default=None,
        description="The id of the order in the shop. A redemption happens once for each id: a repeated request gets "
        "the first answer again. Without an id, a repeated request redeems again.",
    )
    amount: Amount | None = Field(default=None, description="Not used.")


class RedeemablesRequest(BaseModel):
    """The vouchers of a cart. All are validated or redeemed together, or none. Other fields are ignored."""

    model_config = ConfigDict(hide_input_in_errors=True)

    redeemables: Annotated[
        list[RedeemableBody], Field(min_length=1, max_length=MAX_STACK), AfterValidator(_distinct)
    ] = Field(description="1 to 30 vouchers, none of them twice.")
    session: SessionBody | None = Field(
        default=None,
        description="Validation: lock the vouchers for this session. Redemption: redeem what it has locked.",
    )
    order: Order | None = Field(default=None, description="Needed to make a redemption safe to repeat.")
