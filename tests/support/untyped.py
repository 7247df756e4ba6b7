"""The engines without the types of their parameters: for stand-ins of clients, and for mistakes that checkers refuse."""

from __future__ import annotations

from typing import Any

import voucher_sessions

VoucherSessions: Any = voucher_sessions.VoucherSessions
AsyncVoucherSessions: Any = voucher_sessions.AsyncVoucherSessions
