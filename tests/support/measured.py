"""A pytest plugin that measures coverage where it tells something, since measuring slows down all code threefold.

That is so on CPython 3.11, where coverage.py sees each line of every package. Not measured are:

- a test on a server, if the same test runs on fakeredis;
- a test with the mark ``unmeasured``: one that repeats, many times, what other tests do once.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import coverage
import pytest

_UNMEASURED = pytest.StashKey[bool]()


# Last: after those who leave tests out.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_fakeredis = {_function(item) for item in items if _backend(item) == "fakeredis"}
    for item in items:
        repeats = _backend(item) not in {None, "fakeredis"} and _function(item) in on_fakeredis
        item.stash[_UNMEASURED] = repeats or item.get_closest_marker("unmeasured") is not None


def _backend(item: pytest.Item) -> Any:
    return getattr(getattr(item, "callspec", None), "params", {}).get("backend")


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    measurement = coverage.Coverage.current()
    if measurement is None or not item.stash[_UNMEASURED]:
        return (yield)
    measurement.stop()
    try:
        return (yield)
    finally:
        measurement.start()
