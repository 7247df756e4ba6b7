"""``serve`` offers the vouchers over HTTP."""

from __future__ import annotations

import json
import operator
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.servers import Server

import voucher_sessions.contrib.fastapi
from cli.running import COMMAND, Cli, variables
from voucher_sessions import Voucher, VoucherSessions

KEYS = {"shop": "token-of-the-shop"}
HEADERS = {"X-App-Id": "shop", "X-App-Token": "token-of-the-shop"}
BODY = {"redeemables": [{"object": "voucher", "id": "LAST"}], "session": {"type": "LOCK", "key": "cart-1"}}


@pytest.fixture
def keys(tmp_path: Path) -> str:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(KEYS))
    return str(file)


@contextmanager
def serving(*words: str, url: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command as a process, and the address at which it listens."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *words], stderr=subprocess.PIPE, text=True, env=variables(url)
    )
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "running on" in line)
        yield line.partition("running on ")[2].split()[0], process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_requests_with_and_without_a_token(server: Server, engine: VoucherSessions, keys: str) -> None:
    engine.put_voucher(Voucher(code="LAST", quantity=1))
    with serving("--api-keys", keys, "--max-ttl", "15m", url=server.url) as (address, process):
        assert httpx2.post(f"{address}/v1/validations", json=BODY).status_code == 401
        assert engine.list_sessions("LAST") == []
        answer = httpx2.post(f"{address}/v1/validations", json=BODY, headers=HEADERS)
        assert (answer.status_code, answer.json()["valid"]) == (200, True)
        (session,) = engine.list_sessions("LAST")
        assert session.remaining_ms <= 900_000
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command has served, in place of serving it."""
    calls: list[dict[str, Any]] = []

    def serve(url: str, **options: Any) -> None:
        calls.append({"url": url, **options})
        raise KeyboardInterrupt

    monkeypatch.setattr(voucher_sessions.contrib.fastapi, "serve", serve)
    return calls


def test_the_options(cli: Cli, served: list[dict[str, Any]], keys: str) -> None:
    assert cli("serve").status == 0
    options = ("--host", "::1", "--port", "80", "--api-keys", keys, "--prefix", "shop", "--partition", "operator:neg")
    assert cli("serve", *options, "--default-ttl", "90s", "--max-ttl", "2h").status == 0
    without, with_all = served
    assert without == {
        "url": cli.url,
        "api_keys": None,
        "host": "127.0.0.1",
        "port": 8000,
        "prefix": "vs",
        "partition": None,
        "default_ttl": None,
        "max_ttl": None,
    }
    assert with_all == {
        "url": cli.url,
        "api_keys": KEYS,
        "host": "::1",
        "port": 80,
        "prefix": "shop",
        "partition": operator.neg,
        "default_ttl": timedelta(seconds=90),
        "max_ttl": timedelta(hours=2),
    }


@pytest.mark.parametrize("option", ["--default-ttl", "--max-ttl"])
def test_a_time_that_is_too_long(cli: Cli, option: str) -> None:
    result = cli("serve", option, "9999999999d")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert f"{option[2:].replace('-', '_')}: must be at most" in result.err


@pytest.mark.parametrize("text", ["{", "[]", "7", "\x80"])
def test_a_file_without_tokens(cli: Cli, served: list[dict[str, Any]], tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(text.encode("latin-1"))
    result = cli("serve", "--api-keys", str(file))
    assert (result.status, served) == (2, [])
    assert "must be a JSON object" in result.err


def test_a_file_of_tokens_that_does_not_exist(cli: Cli, served: list[dict[str, Any]], tmp_path: Path) -> None:
    result = cli("serve", "--api-keys", str(tmp_path / "none"))
    assert (result.status, served) == (2, [])


def test_without_tokens_it_listens_only_on_loopback(cli: Cli) -> None:
    result = cli("serve", "--host", "0.0.0.0")
    assert (result.status, "loopback" in result.err) == (2, True)


def test_without_the_extra(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "voucher_sessions.contrib.fastapi", None)
    result = cli("serve")
    assert result.status == 2
    assert "python -m pip install 'voucher-sessions[fastapi]'" in result.err
