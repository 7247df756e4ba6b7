"""DESIGN.md section 3 line by line, on a cluster whose vouchers are spread over the slots, and through Sentinel."""

from __future__ import annotations

from behaviour.test_semantics import *  # noqa: F403 - pytest runs the tests that a module imports: all of them, so that a new one runs on clusters too
