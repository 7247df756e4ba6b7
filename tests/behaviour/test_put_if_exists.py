"""``put_voucher(if_exists=…)``: an import that can be repeated, and generated codes that hit nobody's voucher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Backend

from behaviour.test_semantics import figures
from voucher_sessions import InvalidRequest, Used, Voucher, VoucherExists, VoucherSessions
from voucher_sessions.models import IfExists


def test_keep_leaves_what_is_there_as_it_is(engine: VoucherSessions, backend: Backend) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100), used=Used(credits=10))
    engine.redeem("GIFT", credits=50)
    before = backend.contents()
    state = engine.put_voucher(Voucher(code="GIFT", credits=500), used=Used(credits=10), if_exists="keep")
    assert (state.credits.limit, state.credits.used) == (100, 60)
    assert backend.contents() == before


@pytest.mark.parametrize("if_exists", ["keep", "raise", "update"])
def test_what_is_absent_is_created(engine: VoucherSessions, if_exists: IfExists) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100), used=Used(credits=10), if_exists=if_exists)
    assert figures(engine, "GIFT")["credits"] == (100, 10, 0, 90)
    engine.delete_voucher("GIFT")
    engine.put_voucher(Voucher(code="GIFT", credits=7), if_exists=if_exists)
    assert figures(engine, "GIFT")["credits"] == (7, 0, 0, 7)


def test_raise_refuses_a_code_that_exists(engine: VoucherSessions, backend: Backend) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    before = backend.contents()
    with pytest.raises(VoucherExists) as refused:
        engine.put_voucher(Voucher(code="GIFT", credits=500), if_exists="raise")
    assert refused.value.code == "GIFT"
    assert backend.contents() == before


@pytest.mark.parametrize("value", [None, "", "KEEP", "replace", True, 1])
def test_anything_else_is_refused(engine: VoucherSessions, backend: Backend, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine.put_voucher(Voucher(code="GIFT"), if_exists=value)
    assert refused.value.field == "if_exists"
    assert not backend.keys()


def test_in_a_pipeline(engine: VoucherSessions, execute: Callable[..., list[Any]]) -> None:
    pipe = engine.pipeline()
    pipe.put_voucher(Voucher(code="A", credits=1))
    pipe.put_voucher(Voucher(code="A", credits=2), if_exists="keep")
    pipe.put_voucher(Voucher(code="A", credits=3), if_exists="raise")
    first, second, third = execute(pipe, raise_on_error=False)
    assert first == second
    assert isinstance(third, VoucherExists)
