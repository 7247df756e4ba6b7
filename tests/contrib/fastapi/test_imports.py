"""What importing the adapter brings along."""

from __future__ import annotations

from package.test_imports import modules_after


def test_only_the_adapter_imports_fastapi() -> None:
    assert "fastapi" not in modules_after("import voucher_sessions.contrib; from voucher_sessions import Voucher")


def test_uvicorn_is_imported_when_it_is_run() -> None:
    imported = modules_after("from voucher_sessions.contrib.fastapi import create_app, create_router, serve")
    assert "fastapi" in imported
    assert "uvicorn" not in imported
