"""No combination of a server with a variant of the engine is lost between the default run and the remaining ones."""

from __future__ import annotations

from typing import Final

import pytest
from conftest import BACKENDS, VARIANTS, runs

NAMES: Final = [str(variant.id) for variant in VARIANTS]
TWICE: Final = "sync-repeated"  # calls that are sent twice, on two servers


@pytest.mark.parametrize("backend", [*BACKENDS, "cluster", "sentinel"])
def test_each_variant_runs_once_on_each_server(backend: str) -> None:
    for variant in NAMES:
        times = [runs(backend, variant, remaining=remaining) for remaining in (False, True)].count(True)
        assert times == (variant != TWICE or backend in {"fakeredis", "valkey"}), variant


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_server_has_both_engines_by_default(backend: str) -> None:
    by_default = [variant for variant in NAMES if runs(backend, variant, remaining=False)]
    assert {variant.partition("-")[0] for variant in by_default} == {"sync", "async"}


@pytest.mark.parametrize("variant", NAMES)
def test_each_variant_runs_by_default_wherever_the_tests_run(variant: str) -> None:
    """fakeredis and Valkey are always there, the other servers are not."""
    assert any(runs(backend, variant, remaining=False) for backend in ("fakeredis", "valkey"))
