"""Vouchers over HTTP, with FastAPI: a router for an application, or an application of its own.

The endpoints and their bodies are those of Voucherify's Validations API, so that its client libraries work.
"""

from __future__ import annotations

from voucher_sessions.contrib.fastapi.application import create_app
from voucher_sessions.contrib.fastapi.problems import install_error_handlers
from voucher_sessions.contrib.fastapi.router import create_router
from voucher_sessions.contrib.fastapi.serving import serve

__all__ = ["create_app", "create_router", "install_error_handlers", "serve"]
