"""An example of each command, with what it must print, on the vouchers that ``fill`` puts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from support.sessions import lock

from voucher_sessions import (
    ActiveSession,
    Adjustment,
    Audit,
    Finding,
    Redemption,
    Release,
    Rollback,
    Used,
    Validation,
    Voucher,
    VoucherSessions,
    VoucherState,
)
from voucher_sessions.bulk import BulkReport, Difference

KEY: Final = "cart-4711-of-a-customer"
OTHER_KEY: Final = "cart-4712-of-another"
SHORTENED: Final = "cart-471…"


def fill(engine: VoucherSessions) -> None:
    """A discount, and a gift card of 50.00 with two sessions and a redemption."""
    engine.put_voucher(Voucher(code="SALE-50", quantity=50), used=Used(quantity=30))
    engine.put_voucher(Voucher(code="GIFT-50", credits=5000))
    engine.redeem("GIFT-50", credits=700, redemption_id="order-1")
    engine.validate("GIFT-50", credits=3000, session=lock(KEY, 900_000))
    engine.validate("GIFT-50", credits=500, session=lock(OTHER_KEY, 7_200_000))


@dataclass(frozen=True)
class Example:
    """A command. ``texts`` are in its text; ``model`` is the type of its JSON."""

    command: str
    texts: tuple[str, ...]
    model: Any
    status: int = 0
    input: str | None = None

    def words(self, folder: Path) -> list[str]:
        """The words of the command line. FOLDER in them is a folder for files."""
        return self.command.replace("FOLDER", str(folder)).split()

    def check_json(self, found: Any) -> None:
        """The JSON is that of the model, with nothing added and nothing left out."""
        adapter = TypeAdapter[Any](self.model)
        assert adapter.dump_python(adapter.validate_python(found), mode="json") == found


EXAMPLES: Final = (
    Example(
        "show GIFT-50",
        ("GIFT-50", "1 used", "2 locked", "700 used", "3500 locked", "800 available", "2 live sessions:", SHORTENED),
        VoucherState,
    ),
    Example("sessions GIFT-50", ("2 live sessions", SHORTENED, "3000", "14m ", "500", "1h 59m"), list[ActiveSession]),
    Example(f"session GIFT-50 {KEY}", (SHORTENED, "3000 credits", "14m "), ActiveSession),
    Example("redemptions GIFT-50", ("order-1", "700"), list[Redemption]),
    Example("redemption GIFT-50 order-1", ("order-1", "1 redemption, 700 credits"), Redemption),
    Example("put NEW --quantity 3 --credits 500", ("NEW", "3 available", "500 available"), VoucherState),
    Example("adjust GIFT-50 --credits +1000 --id top-up", ("top-up", "+1000 credits", "of 6000"), Adjustment),
    Example("validate GIFT-50 --credits 800", ("valid: GIFT-50", "800 credits"), Validation),
    Example(
        "validate GIFT-50 --credits 801",
        ("not valid: GIFT-50: gift_amount_exceeded", "other sessions", "14m "),
        Validation,
        status=1,
    ),
    Example(f"redeem GIFT-50 --session {KEY} --id order-2", ("order-2", "3000 credits", SHORTENED), Redemption),
    Example(f"release GIFT-50 --session {KEY}", ("released: session cart-471… on GIFT-50",), Release),
    Example(f"extend GIFT-50 --session {KEY} --ttl 2h", (SHORTENED, "2h 00m"), ActiveSession),
    Example("rollback GIFT-50 order-1", ("order-1", "1 redemption, 700 credits"), Rollback),
    Example("rollback GIFT-50 order-1 --credits 100 --id refund", ("refund", "100 credits"), Rollback),
    Example("delete SALE-50 --yes", ("deleted: SALE-50",), bool),
    Example("import -", ("1 rows: 1 new, 0 known",), BulkReport, input="code,quantity\nNEW,5\n"),
    Example("export FOLDER/out.csv", ("2 vouchers",), dict[str, int]),
    Example("reconcile -", ("no_row GIFT-50 order-1", "differences: 1"), list[Difference], 1, input="code,id\n"),
    Example(
        "check", ("error persistence", "warning replicas", "findings: 1 error, 1 warning"), list[Finding], status=3
    ),
    Example("audit GIFT-50", ("quantity 2 2", "credits 3500 3500", "The totals agree."), Audit),
    Example("repair GIFT-50", ("Nothing to repair.",), Audit),
)
