"""``import``: what it reads, which lines it refuses, and what it does with these."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from support.servers import Server
from support.sessions import lock
from support.waiting import until

from cli.examples import KEY
from cli.running import COMMAND, Cli, Terminal, run_process, variables
from voucher_sessions import Used, Voucher, VoucherSessions
from voucher_sessions.bulk import BulkReport, scan_vouchers
from voucher_sessions.cli import bad_lines, importing
from voucher_sessions.cli.importing import BATCH


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def limits(engine: VoucherSessions) -> dict[str, tuple[int | None, ...]]:
    """By code: limits and used figures of quantity, credits, points."""
    return {
        state.code: (
            *(each.limit for each in (state.quantity, state.credits, state.points)),
            *(each.used for each in (state.quantity, state.credits, state.points)),
        )
        for state in scan_vouchers(engine)
    }


def written(path: str, *lines: str) -> str:
    Path(path).write_text("\n".join([*lines, ""]), "utf-8")
    return path


ALL = "code,quantity,credits,points,used_quantity,used_credits,used_points"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["code", "A", "B"], {"A": (None, 0, 0, 0, 0, 0), "B": (None, 0, 0, 0, 0, 0)}),
        (["code,quantity", "A,5", "B,", "C,0"], {"A": 5, "B": None, "C": 0}),
        (["points,code", "5,A", " 6 ,B"], {"A": (None, 0, 5, 0, 0, 0), "B": (None, 0, 6, 0, 0, 0)}),
        ([ALL, "A,1,2,3,4,5,6", "B,,,,,7,"], {"A": (1, 2, 3, 4, 5, 6), "B": (None, 0, 0, 0, 7, 0)}),
        (["code,quantity", "", '"A', 'B",1', "", '"C""D,E",2'], {"A\nB": 1, 'C"D,E': 2}),
        (["\ufeffcode,quantity", "=1+1,3", " A ,4", "Ä,5"], {"=1+1": 3, " A ": 4, "Ä": 5}),
        (["code,quantity\r", "A,3\r"], {"A": 3}),
    ],
)
def test_csv(lines: list[str], expected: dict[str, Any], cli: Cli, engine: VoucherSessions) -> None:
    result = cli("import", written("v.csv", *lines))
    assert (result.status, result.err) == (0, "")
    found = limits(engine)
    assert found.keys() == expected.keys()
    for code, figures in expected.items():
        assert found[code] == (figures if isinstance(figures, tuple) else (figures, 0, 0, 0, 0, 0))
    assert f"{len(expected)} rows: {len(expected)} new, 0 known, 0 conflicting, 0 bad" in result.text


def test_json_lines(cli: Cli, engine: VoucherSessions) -> None:
    rows = [
        {"code": "A"},
        {"code": "B\n\u2028", "quantity": None, "credits": 5, "points": None, "used_credits": 2},
        {"code": "C", "quantity": "7", "line": 3, "problem": "of an earlier import"},
    ]
    lines = [*(json.dumps(row, ensure_ascii=False) for row in rows), "", "  "]
    assert cli("import", written("v.JSONL", *lines)).status == 0
    assert limits(engine) == {
        "A": (None, 0, 0, 0, 0, 0),
        "B\n\u2028": (None, 5, 0, 0, 2, 0),
        "C": (7, 0, 0, 0, 0, 0),
    }


@pytest.mark.parametrize(
    ("options", "input"),
    [
        ([], "code,credits\nA,5\n"),
        (["--format", "csv"], "code,credits\nA,5"),
        (["--format", "jsonl"], '{"code":"A","credits":5}'),
    ],
)
def test_stdin(options: list[str], input: str, cli: Cli, engine: VoucherSessions) -> None:
    assert cli("import", "-", *options, input=input).status == 0
    assert run_process("import", "-", *options, url=cli.url, input=input).status == 0
    assert limits(engine) == {"A": (None, 5, 0, 0, 0, 0)}


def test_the_format_option_overrides_the_name_of_the_file(cli: Cli, engine: VoucherSessions) -> None:
    assert cli("import", written("v.csv", '{"code": "A"}'), "--format", "jsonl").status == 0
    assert "A" in limits(engine)


BAD_CSV = [
    ("x,1", "credits: must be a whole number from 0 to 2^53 - 1, or empty"),
    ("5.0,1", "credits: must be a whole number"),
    ("-1,1", "credits: must be a whole number"),
    ("1_000,1", "credits: must be a whole number"),
    ("٣,1", "credits: must be a whole number"),
    ("9007199254740992,1", "credits: Input should be less than or equal to 9007199254740991"),
    ("1" * 5000 + ",1", "credits: must be a whole number"),
    ("1,-1", "used_credits: must be a whole number"),
    ("1,9007199254740992", "used_credits: Input should be less than or equal to 9007199254740991"),
    ("1", "has 2 cells, and the header 3"),
    ("1,1,", "has 4 cells, and the header 3"),
]


@pytest.mark.parametrize(("cells", "problem"), BAD_CSV)
def test_a_bad_row_of_csv(cells: str, problem: str, cli: Cli, engine: VoucherSessions) -> None:
    file = written("v.csv", "code,credits,used_credits", "A,1,1", f"BAD,{cells}", "C,1,1")
    result = cli("import", file)
    assert result.status == 1
    assert limits(engine).keys() == {"A", "C"}
    assert result.err.startswith(f"line 3: {problem}")
    assert result.err.endswith("The lines that were not imported are in v.bad.csv\n")
    header, row = Path("v.bad.csv").read_text("utf-8").splitlines()
    assert header == "line,problem,code,credits,used_credits"
    assert row.startswith("3,")
    assert row.endswith(f"BAD,{cells}")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "code: is missing"),
        (",1", "code: is missing"),
        ('"  ",1', "code: must not be blank"),
        ("A" * 257 + ",1", "code: String should have at most 256 characters"),
        ('"A"B,1', "is not CSV: ',' expected after '\"'"),
    ],
)
def test_a_row_with_a_bad_code(line: str, problem: str, cli: Cli, engine: VoucherSessions) -> None:
    if not line:
        result = cli("import", written("v.csv", "quantity,code", "1,", "2,OK"))
        assert (result.status, result.err.splitlines()[0]) == (1, f"line 2: {problem}")
        return
    result = cli("import", written("v.csv", "code,quantity", line, "OK,2"))
    assert (result.status, result.err.splitlines()[0]) == (1, f"line 2: {problem}")
    assert limits(engine) == {"OK": (2, 0, 0, 0, 0, 0)}


def test_lines_are_numbered_as_an_editor_does(cli: Cli) -> None:
    lines = ["code,quantity", "", '"A', "", 'B",x', "", "C,y", '"D', 'D",1,', "E,"]
    assert [line.split(":")[0] for line in cli("import", written("v.csv", *lines)).err.splitlines()[:-1]] == [
        "line 3",
        "line 7",
        "line 8",
    ]


def test_a_quote_that_is_not_closed_makes_one_bad_row(cli: Cli, engine: VoucherSessions) -> None:
    """csv gives up after 131,072 characters, and goes on with the next line."""
    swallowed = [f"SWALLOWED-{number:08}" for number in range(8_000)]
    result = cli("import", written("v.csv", "code", "A", '"B', *swallowed, "C"))
    assert result.status == 1
    assert result.err.startswith("line 3: is not CSV: field larger than field limit")
    codes = limits(engine)
    assert {"A", "C"} <= codes.keys()
    assert "SWALLOWED-00000000" not in codes
    ending = cli("import", written("v.csv", "code", "X", '"Y'))
    assert ending.err.startswith("line 3: is not CSV: unexpected end of data")
    assert "X" in limits(engine)


def test_bytes_that_are_not_utf_8_make_only_their_row_bad(cli: Cli, engine: VoucherSessions) -> None:
    Path("v.csv").write_bytes(b"code,quantity\nA,1\n\xff\xfe,1\n\xc3\x84,2\n")
    result = cli("import", "v.csv")
    assert (result.status, result.err.splitlines()[0]) == (1, "line 3: is not UTF-8")
    assert limits(engine).keys() == {"A", "Ä"}
    assert Path("v.bad.csv").read_bytes().splitlines()[1] == b"3,is not UTF-8,\xff\xfe,1"
    Path("v.jsonl").write_bytes(b'{"code": "\xff"}\n{"code": "\\udcff"}\n{"code": "B"}\n')
    result = cli("import", "v.jsonl")
    assert "line 1: is not UTF-8" in result.err
    assert "line 2: code: Input should be a valid string" in result.err
    assert "B" in limits(engine)


@pytest.mark.parametrize(
    ("line", "problem", "in_file"),
    [
        ("nonsense", "is not JSON", {"text": "nonsense"}),
        ("[1]", "is not a JSON object", {"text": "[1]"}),
        ("[" * 100_000, "is not JSON", {"text": "[" * 100_000}),
        ('{"code": "A", "qantity": 1}', "has other fields than code, ", {"code": "A", "qantity": 1}),
        ('{"quantity": 1}', "code: is missing", {"quantity": 1}),
        ('{"code": null}', "code: is missing", {"code": None}),
        ('{"code": 7}', "code: Input should be a valid string", {"code": 7}),
        ('{"code": "A", "quantity": 1.5}', "quantity: Input should be a valid integer", {"code": "A", "quantity": 1.5}),
        ('{"code": "A", "quantity": true}', "quantity: Input should be", {"code": "A", "quantity": True}),
        ('{"code": "A", "quantity": -1}', "quantity: Input should be", {"code": "A", "quantity": -1}),
        ('{"code": "A", "used_points": -1}', "used_points: Input should be", {"code": "A", "used_points": -1}),
        ('{"code": "A", "quantity": "-1"}', "quantity: must be a whole", {"code": "A", "quantity": "-1"}),
    ],
)
def test_a_bad_line_of_json(
    line: str, problem: str, in_file: dict[str, Any], cli: Cli, engine: VoucherSessions
) -> None:
    result = cli("import", written("v.jsonl", '{"code": "OK"}', line))
    assert result.status == 1
    assert result.err.startswith(f"line 2: {problem}")
    assert limits(engine).keys() == {"OK"}
    found = json.loads(Path("v.bad.jsonl").read_text("utf-8"))
    assert found.pop("line") == 2
    assert found.pop("problem").startswith(problem)
    assert found == in_file


@pytest.mark.parametrize("header", ["", "quantity", "code,code", "code,qantity", "a;b", 'code,"x', "code;quantity"])
def test_columns_that_are_not_known_stop_the_import(header: str, cli: Cli, engine: VoucherSessions) -> None:
    """If a misspelt column were ignored, vouchers would have no limit."""
    result = cli("import", written("v.csv", header, "A,1"))
    assert result.status == 2
    assert (
        "the first line of the file must name the columns: code is required, no column may be named twice" in result.err
    )
    assert limits(engine) == {}


def test_a_file_of_bad_lines_can_be_corrected_and_imported(cli: Cli, engine: VoucherSessions) -> None:
    for kind, good, bad in (("csv", "1", "x"), ("jsonl", "1", '"x"')):
        lines = ["code,quantity", f"{kind}-1,{good}", f"{kind}-2,{bad}"]
        if kind == "jsonl":
            lines = [f'{{"code": "{kind}-1", "quantity": {good}}}', f'{{"code": "{kind}-2", "quantity": {bad}}}']
        assert cli("import", written(f"v.{kind}", *lines)).status == 1
        again = cli("import", f"v.bad.{kind}")
        assert again.status == 1
        assert "v.bad.bad" in again.err
        assert Path(f"v.bad.bad.{kind}").read_text().count("line") == Path(f"v.bad.{kind}").read_text().count("line")
        corrected = Path(f"v.bad.{kind}").read_text().replace('"x"', "2").replace(",x", ",2")
        assert cli("import", written(f"v.bad.{kind}", corrected)).status == 0
    assert {code: figures[0] for code, figures in limits(engine).items()} == {
        "csv-1": 1,
        "csv-2": 2,
        "jsonl-1": 1,
        "jsonl-2": 2,
    }


def test_where_bad_lines_go(cli: Cli, folder: Path) -> None:
    file = written("v.csv", "code,quantity", "A,x")
    assert "are in elsewhere.csv" in cli("import", file, "--bad-lines", "elsewhere.csv").err
    assert not Path("v.bad.csv").exists()
    refused = cli("import", file, "--bad-lines", str(folder / "v.csv"))
    assert (refused.status, Path("v.csv").read_text()) == (2, "code,quantity\nA,x\n")
    from_stdin = cli("import", "-", input="code,quantity\nA,x\n")
    assert from_stdin.status == 1
    assert from_stdin.err == "line 2: quantity: must be a whole number from 0 to 2^53 - 1, or empty\n"
    assert "are in x.csv" in cli("import", "-", "--bad-lines", "x.csv", input="code,quantity\nA,x\n").err
    assert sorted(os.listdir()) == ["elsewhere.csv", "v.csv", "x.csv"]
    assert cli("import", file, "--bad-lines", "no-such-folder/x.csv").status == 2


def test_the_first_bad_lines_are_printed_and_all_are_written(cli: Cli) -> None:
    rows = [f"A{number},x" for number in range(25)]
    printed = cli("import", written("v.csv", "code,quantity", *rows)).err.splitlines()
    assert len(printed) == bad_lines.PRINTED + 2
    assert printed[-2:] == ["and 15 more", "The lines that were not imported are in v.bad.csv"]
    assert len(Path("v.bad.csv").read_text().splitlines()) == 26
    everything = cli("import", "-", input="\n".join(["code,quantity", *rows])).err
    assert len(everything.splitlines()) == 25


def test_a_good_import_leaves_no_file(cli: Cli) -> None:
    cli("import", written("v.csv", "code", "A"))
    assert os.listdir() == ["v.csv"]


@pytest.mark.parametrize(
    ("if_exists", "counts", "status", "limit"),
    [
        (None, "0 new, 0 known, 1 conflicting, 0 bad", 1, 1),
        ("keep", "0 new, 0 known, 1 conflicting, 0 bad", 1, 1),
        ("update", "0 new, 1 known, 0 conflicting, 0 bad", 0, 2),
        ("raise", "0 new, 0 known, 0 conflicting, 1 bad", 1, 1),
    ],
)
def test_a_voucher_that_exists(
    if_exists: str | None, counts: str, status: int, limit: int, cli: Cli, engine: VoucherSessions
) -> None:
    engine.put_voucher(Voucher(code="A", quantity=1))
    options = [] if if_exists is None else ["--if-exists", if_exists]
    result = cli("import", written("v.csv", "code,quantity", "A,2"), *options)
    assert result.status == status
    assert counts in result.text
    assert engine.get_voucher("A").quantity.limit == limit
    if status:
        assert result.err.startswith("line 2: ")
        assert "'A'" in result.err
        assert Path("v.bad.csv").read_text().endswith(",A,2\n")


def test_used_figures_are_set_only_if_a_row_has_them(cli: Cli, engine: VoucherSessions) -> None:
    for code in ("A", "B"):
        engine.put_voucher(Voucher(code=code, credits=100), used=Used(credits=40, quantity=2))
    file = written("v.csv", "code,credits,used_credits,used_points", "A,100,,", "B,100,10,")
    assert cli("import", file, "--if-exists", "update").status == 0
    assert engine.get_voucher("A").credits.used == 40
    assert (engine.get_voucher("B").credits.used, engine.get_voucher("B").quantity.used) == (10, 0)


def test_sessions_of_a_voucher_stay(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="A", credits=100))
    engine.validate("A", credits=40, session=lock(KEY))
    cli("import", written("v.csv", "code,credits", "A,200"), "--if-exists", "update")
    assert engine.get_voucher("A").credits.locked == 40


def test_the_json_is_the_report_of_the_whole_file(
    cli: Cli, engine: VoucherSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is put in several batches."""
    monkeypatch.setattr(importing, "BATCH", 4)
    engine.put_voucher(Voucher(code="A5", quantity=1))
    engine.put_voucher(Voucher(code="A6", quantity=9))
    rows = [f"A{number},{'x' if number in (1, 9) else 1}" for number in range(10)]
    result = cli("import", written("v.csv", "code,quantity", *rows), "--json")
    report = BulkReport.model_validate(result.json)
    assert (report.new, report.known) == (6, 1)
    assert [each.position for each in report.bad] == [1, 9]
    assert [each.position for each in report.conflicting] == [6]
    assert "exists with another quantity" in report.conflicting[0].problem
    assert [line.split(":")[0] for line in result.err.splitlines()[:-1]] == ["line 3", "line 8", "line 11"]


def test_stdin_is_read_even_if_a_file_has_its_name(server: Server, engine: VoucherSessions) -> None:
    written("-", "code", "of the file")
    result = run_process("import", "-", url=server.url, input="code\nA\n")
    assert (result.status, [*limits(engine)]) == (0, ["A"])


@pytest.mark.parametrize("name", ["/", ".", "", "folder"])
def test_a_folder_is_no_file(name: str, cli: Cli, folder: Path) -> None:
    (folder / "folder").mkdir()
    result = cli("import", name, "--format", "csv")
    assert (result.status, result.out) == (2, "")
    assert result.err.endswith("Error: a file cannot be read or written: Is a directory\n")


def test_bad_lines_that_cannot_be_written(cli: Cli) -> None:
    result = cli("import", written("v.csv", "code,quantity", "A,x"), "--bad-lines", "none/bad.csv")
    assert result.status == 2
    assert "No such file or directory" in result.err
    assert "are in" not in result.err


def test_memory_is_a_trial_run(engine: VoucherSessions) -> None:
    result = Cli("memory://")("import", written("v.csv", "code,quantity", "A,1", "B,x"))
    assert (result.status, limits(engine)) == (1, {})
    assert "2 rows: 1 new, 0 known, 0 conflicting, 1 bad" in result.text


def test_an_import_that_ends_early_says_how_to_go_on(
    cli: Cli, engine: VoucherSessions, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH", 2)
    engine.put_voucher(Voucher(code="first"))
    admin.set("vs:{C}", "not ours")
    file = written("v.csv", "code", "A", "B", "C", "D")
    result = cli("import", file)
    assert (result.status, result.out) == (3, "")
    assert "The import ended after 2 rows: run it again\n" in result.err
    assert "did not write" in result.err
    assert "run it again with --if-exists keep" in cli("import", file, "--if-exists", "raise").err
    admin.delete("vs:{C}")
    assert cli("import", file).status == 0


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_ends_an_import(server: Server, engine: VoucherSessions) -> None:
    """It reads from a pipe that stays open."""
    process = subprocess.Popen(
        [*COMMAND, "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables(server.url),
    )
    assert process.stdin is not None
    process.stdin.write("code\n" + "".join(f"A{number}\n" for number in range(BATCH + 5_000)))
    process.stdin.flush()
    until(lambda: "A0" in limits(engine))
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, "")
    assert "rows: run it again" in errors
    assert "Traceback" not in errors


def test_a_terminal_shows_a_bar(server: Server, engine: VoucherSessions) -> None:
    file = written("v.csv", "code", *(f"A{number}" for number in range(BATCH * 2)))
    with Terminal("import", file, url=server.url, columns=80) as terminal:
        assert terminal.end() == 0
        assert f"{BATCH * 2} rows: {BATCH * 2} new" in terminal.text
        assert "per second" in terminal.text
        assert "100%" in terminal.text
        assert "━━━" in terminal.text


def test_without_a_terminal_the_progress_is_printed_in_lines(
    cli: Cli, engine: VoucherSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr(importing, "BATCH", 1)
    monkeypatch.setattr("voucher_sessions.cli.importing.monotonic", lambda: next(clock))
    result = cli("import", written("v.csv", "code", "A", "B", "C", "D"))
    lines = [line for line in result.err.splitlines() if "per second" in line]
    assert [line.split(",")[0] for line in lines] == ["2 rows", "4 rows"]


def rows_of(number: int, cells: str) -> Iterator[str]:
    yield "code,quantity\n"
    for at in range(number):
        yield f"CODE-{at:07},{cells}\n"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("cells", ["1", "x"], ids=["good", "bad"])
def test_many_rows_need_no_more_memory_than_a_few(cells: str, server: Server, engine: VoucherSessions) -> None:
    def peak_kb(number: int) -> int:
        with Path("v.csv").open("w") as file:
            file.writelines(rows_of(number, cells))
        code = (
            "import resource, sys; from voucher_sessions.cli import main;"
            f"status = main(['import', 'v.csv', '--json']); assert status == {int(cells == 'x')};"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables(server.url)
        )
        found = BulkReport.model_validate_json(done.stdout)
        assert (found.new, len(found.bad)) == ((number, 0) if cells == "1" else (0, number))
        engine.client.flushall()
        return int(done.stderr.splitlines()[-1])

    few, many = peak_kb(5_000), peak_kb(200_000)
    assert many < few + 5_000
