"""DESIGN.md section 3 line by line, on a cluster whose vouchers are spread over the slots, and through Sentinel."""

from __future__ import annotations

from behaviour.test_semantics import *  # noqa: F403 - every test of it must run here too, and a list of names would miss the next one
