"""The bulk tools need sync engines. Here they send fewer calls together, so that a few rows make several chunks."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import VARIANTS

from voucher_sessions.bulk import rows

CHUNK = 20


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", CHUNK)


@pytest.fixture(params=[variant for variant in VARIANTS if str(variant.id).startswith("sync")])
def variant(request: pytest.FixtureRequest) -> Any:
    return request.param
