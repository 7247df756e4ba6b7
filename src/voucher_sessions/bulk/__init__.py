"""Bulk tools for operators, with a sync engine: import vouchers and redemptions, compare, and list everything.

The imports are safe to run again: rows that were written before are recognised, and counted as known.
"""

from __future__ import annotations

from voucher_sessions.bulk.imports import VoucherRow, import_redemptions, put_vouchers
from voucher_sessions.bulk.reconciling import reconcile
from voucher_sessions.bulk.rows import RedemptionLike
from voucher_sessions.bulk.scans import scan_redemptions, scan_vouchers
from voucher_sessions.models import RedemptionRow
from voucher_sessions.results import BulkReport, Difference, RowProblem

__all__ = [
    "BulkReport",
    "Difference",
    "RedemptionLike",
    "RedemptionRow",
    "RowProblem",
    "VoucherRow",
    "import_redemptions",
    "put_vouchers",
    "reconcile",
    "scan_redemptions",
    "scan_vouchers",
]
