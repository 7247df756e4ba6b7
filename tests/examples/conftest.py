"""The databases of the example: SQLite, and one PostgreSQL server for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sql_agreement.shop import Base
from sqlalchemy import Engine, create_engine


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    from benchmarks.postgres_server import running

    with running(schema="") as url:
        yield url.replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    url: str = request.getfixturevalue("postgres")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """An empty database."""
    database = create_engine(database_url)
    Base.metadata.drop_all(database)
    Base.metadata.create_all(database)
    yield database
    database.dispose()
