"""Contender: PostgreSQL through psycopg, with a table of locks; transactions wait for the row of the card."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from benchmarks.contenders import AMOUNT, CREDITS, OTHER_AMOUNT, TTL_MINUTES, Contender, Verb, must

NAME, NOT_AWAITED = "PostgreSQL", "PostgreSQL, synchronous_commit=off"

SCHEMA = """
CREATE TABLE cards (code text PRIMARY KEY, credits bigint NOT NULL, used bigint NOT NULL);
CREATE TABLE locks (
    code text NOT NULL REFERENCES cards, key text NOT NULL, amount bigint NOT NULL, expires_at timestamptz NOT NULL,
    PRIMARY KEY (code, key)
);
"""
FOR_UPDATE = "SELECT credits - used FROM cards WHERE code = %s FOR UPDATE"
# clock_timestamp(), since now() is the start of the transaction, which may have waited long for the row.
HELD_BY_OTHERS = """
SELECT coalesce(sum(amount), 0) FROM locks WHERE code = %s AND key <> %s AND expires_at > clock_timestamp()
"""
UPSERT = """
INSERT INTO locks VALUES (%s, %s, %s, clock_timestamp() + %s * interval '1 minute')
ON CONFLICT (code, key) DO UPDATE SET amount = excluded.amount, expires_at = excluded.expires_at
"""
TAKE = "DELETE FROM locks WHERE code = %s AND key = %s AND expires_at > clock_timestamp() RETURNING amount"
SPEND = "UPDATE cards SET used = used + %s WHERE code = %s"
READ = """
SELECT credits - used - (
    SELECT coalesce(sum(amount), 0) FROM locks WHERE locks.code = cards.code AND expires_at > clock_timestamp()
) FROM cards WHERE code = %s
"""


def number(connection: psycopg.Connection, query: str, *values: object) -> int:
    """The one number that a query returns, or 0 if it returns no row."""
    row = connection.execute(query, values).fetchone()
    return int(row[0]) if row else 0


def contender(url: str, *, awaited: bool = True) -> Contender:
    """``awaited``: a commit is on disk when it returns, which is the default of PostgreSQL."""
    connection = psycopg.connect(url, autocommit=True)
    if not awaited:
        connection.execute("SET synchronous_commit = off")

    def put(codes: Iterable[str]) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO cards VALUES (%s, %s, 0) ON CONFLICT DO NOTHING", [(code, CREDITS) for code in codes]
            )

    def available(code: str, key: str) -> int:
        """Lock the row of the card until the transaction ends, and return what is available to the session."""
        left = number(connection, FOR_UPDATE, code)
        return left - number(connection, HELD_BY_OTHERS, code, key)

    def lock(code: str, key: str, amount: int) -> None:
        with connection.transaction():
            must(available(code, key) >= amount)
            connection.execute(UPSERT, (code, key, amount, TTL_MINUTES))

    def redeem_session(code: str, key: str) -> None:
        with connection.transaction():
            left = available(code, key)
            amount = number(connection, TAKE, code, key)
            must(amount and left >= amount)
            connection.execute(SPEND, (amount, code))

    def redeem(code: str, key: str) -> None:
        with connection.transaction():
            must(available(code, key) >= AMOUNT)
            connection.execute(SPEND, (AMOUNT, code))

    return Contender(
        NAME if awaited else NOT_AWAITED,
        put=put,
        verbs={
            Verb.VALIDATE: lambda code, key: must(number(connection, READ, code) >= AMOUNT),
            Verb.LOCK: lambda code, key: lock(code, key, AMOUNT),
            Verb.OVERRIDE: lambda code, key: lock(code, key, OTHER_AMOUNT),
            Verb.REDEEM_SESSION: redeem_session,
            Verb.RELEASE: lambda code, key: must(number(connection, TAKE, code, key)),
            Verb.REDEEM: redeem,
            Verb.STATE: lambda code, key: number(connection, READ, code),
        },
        close=connection.close,
    )
