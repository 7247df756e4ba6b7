"""Sessions as they are in a request's body."""

from __future__ import annotations

from typing import Any


def lock(key: str, ttl_ms: int = 60_000) -> dict[str, Any]:
    return {"type": "LOCK", "key": key, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}
