"""``export``, and that ``import`` makes the same vouchers of what it writes; ``reconcile``."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.servers import Server

from cli.examples import fill
from cli.running import Cli, run_process
from cli.test_import import limits, written
from voucher_sessions import Used, Voucher, VoucherSessions
from voucher_sessions.bulk import put_vouchers

AMOUNT = st.one_of(st.integers(0, 3), st.integers(0, 2**53 - 1))
# What CSV, JSON, spreadsheets and terminals treat in a special way.
ODD = st.text(st.sampled_from("\n\r\t\"',;=+-@ {}[]\\\x00\x1b\x85\u2028\ufeffÄ日🎁a1"), min_size=1, max_size=8)
CODE = st.one_of(ODD, st.text(min_size=1, max_size=20)).filter(str.strip)
VOUCHERS = st.lists(
    st.tuples(CODE, st.one_of(st.none(), AMOUNT), AMOUNT, AMOUNT, AMOUNT, AMOUNT, AMOUNT),
    max_size=6,
    unique_by=lambda row: row[0],
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.unmeasured
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_is_exported_is_imported_as_it_was(kind: str, server: Server, engine: VoucherSessions) -> None:
    cli = Cli(server.url)

    @settings(max_examples=25, deadline=None)
    @given(VOUCHERS)
    def check(rows: list[tuple[Any, ...]]) -> None:
        engine.client.flushall()
        vouchers = [
            (
                Voucher(code=code, quantity=quantity, credits=credits, points=points),
                Used(quantity=a, credits=b, points=c),
            )
            for code, quantity, credits, points, a, b, c in rows
        ]
        put_vouchers(engine, vouchers)
        before = limits(engine)
        assert cli("export", f"out.{kind}").text == f"{len(rows)} vouchers"
        imported = cli("import", f"out.{kind}", "--prefix", "copy")
        assert (imported.status, imported.err) == (0, "")
        with VoucherSessions.from_url(server.url, prefix="copy") as copy:
            assert limits(copy) == before

    check()


def test_the_columns_of_an_export(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    assert cli("export", "out.csv", "--json").json == {"vouchers": 2}
    with Path("out.csv").open(newline="") as file:
        rows = {row["code"]: row for row in csv.DictReader(file)}
    assert rows["GIFT-50"] == {
        "code": "GIFT-50",
        "quantity": "",
        "credits": "5000",
        "points": "0",
        "used_quantity": "1",
        "used_credits": "700",
        "used_points": "0",
    }
    assert b"\r" not in Path("out.csv").read_bytes()
    cli("export", "out.jsonl")
    found = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    (row,) = [each for each in found if each["code"] == "GIFT-50"]
    assert row == {
        **{name: int(value) for name, value in rows["GIFT-50"].items() if value.isdigit()},
        "code": "GIFT-50",
        "quantity": None,
    }


def test_an_export_to_a_pipe(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="Ä\r=1", quantity=1))
    expected = 'code,quantity,credits,points,used_quantity,used_credits,used_points\n"Ä\r=1","1","0","0","0","0","0"\n'
    assert cli("export", "-").out == expected
    assert run_process("export", "-", url=cli.url, PYTHONIOENCODING="ascii").status == 0
    assert json.loads(cli("export", "-", "--format", "jsonl", "--json").out)["code"] == "Ä\r=1"


def test_an_export_replaces_an_older_one_when_it_is_complete(
    cli: Cli, engine: VoucherSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    Path("out.csv").write_text("older")
    engine.client.set("vs:{X}", "not ours")
    result = cli("export", "out.csv")
    assert (result.status, result.out) == (3, "")
    assert Path("out.csv").read_text() == "older"
    engine.client.delete("vs:{X}")
    assert cli("export", "out.csv").status == 0
    assert Path("out.csv").read_text() != "older"
    assert os.listdir() == ["out.csv"]
    assert cli("export", "out.txt").status == 2
    assert cli("export", "out.txt", "--format", "csv").status == 0


def test_an_export_of_many_shows_its_progress(
    cli: Cli, engine: VoucherSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_vouchers(engine, (Voucher(code=f"A{number}") for number in range(1_001)))
    seconds = iter(range(0, 1_000, 60))
    monkeypatch.setattr("voucher_sessions.cli.importing.monotonic", lambda: next(seconds))
    result = cli("export", "out.csv")
    assert result.text == "1001 vouchers"
    assert result.err == "1000 vouchers, 17 per second\n"


def test_an_export_of_nothing(cli: Cli) -> None:
    assert cli("export", "out.csv").text == "0 vouchers"
    assert len(Path("out.csv").read_text().splitlines()) == 1


ROWS = [
    ("order-1,GIFT-50,700", None),
    (
        "order-1,GIFT-50,600",
        "amounts GIFT-50 order-1 file: 1 redemption, 600 credits; server: 1 redemption, 700 credits",
    ),
    ("order-9,GIFT-50,700", "no_receipt GIFT-50 order-9 file: 1 redemption, 700 credits; server: no receipt"),
]


@pytest.mark.parametrize(("row", "difference"), ROWS)
def test_reconcile(row: str, difference: str | None, cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    result = cli("reconcile", written("orders.csv", "id,code,credits", row))
    assert result.status == (0 if difference is None else 1)
    assert (difference or "differences: 0") in result.text
    assert ("no_row" in result.text) == ("order-9" in row)
    found = cli("reconcile", "orders.csv", "--json")
    assert found.status == result.status
    assert len(found.json) == int(result.text.rpartition(" ")[2])


@pytest.mark.parametrize(
    ("rolled_back", "credits_rolled_back", "difference"),
    [
        ("true", "", None),
        ("YES", "", None),
        ("1", "", None),
        ("", "", "rolled_back GIFT-50 order-1 file: rolled back: nothing; server: rolled back: all"),
        ("false", "", "file: rolled back: nothing; server: rolled back: all"),
        ("no", "100", "file: rolled back: 100 credits; server: rolled back: all"),
    ],
)
def test_reconcile_compares_rollbacks(
    rolled_back: str, credits_rolled_back: str, difference: str | None, cli: Cli, engine: VoucherSessions
) -> None:
    fill(engine)
    engine.rollback("GIFT-50", "order-1")
    header = "code,id,credits,rolled_back,credits_rolled_back,session_key,redeemed_at"
    row = f"GIFT-50,order-1,700,{rolled_back},{credits_rolled_back},,2026-11-01T12:00:00Z"
    result = cli("reconcile", written("orders.csv", header, row))
    assert result.status == (0 if difference is None else 1)
    assert (difference or "differences: 0") in result.text


def test_reconcile_reads_what_the_engine_returns(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    receipt = engine.get_redemption("GIFT-50", "order-1")
    assert cli("reconcile", written("orders.jsonl", receipt.model_dump_json())).status == 0
    assert cli("reconcile", "-", "--format", "jsonl", input=receipt.model_dump_json()).status == 0


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("GIFT-50,,700,", "line 3: id: Field required"),
        ("GIFT-50,order-2,much,", "line 3: credits: must be a whole number"),
        ("GIFT-50,order-2,7,perhaps", "line 3: rolled_back: Input should be a valid boolean"),
        (",order-2,7,", "line 3: code: is missing"),
        ("GIFT-50,order-2", "line 3: has 2 cells, and the header 4"),
    ],
)
def test_a_bad_row_ends_the_comparison(row: str, problem: str, cli: Cli, engine: VoucherSessions) -> None:
    """Without it, its receipt would be reported as one that has no row."""
    fill(engine)
    result = cli("reconcile", written("orders.csv", "code,id,credits,rolled_back", "GIFT-50,order-1,700,", row))
    assert result.status == 2
    assert result.err.startswith(f"Error: {problem}")
    as_json = cli("reconcile", "orders.csv", "--json")
    assert (as_json.status, as_json.out) == (2, "")
    assert json.loads(as_json.err)["message"].startswith(problem)
