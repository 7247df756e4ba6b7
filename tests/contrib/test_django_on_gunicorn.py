"""The example shop on gunicorn with four workers, loaded before they are forked or after it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
from support.servers import Server, free_port
from support.waiting import until

from voucher_sessions import VoucherSessions
from voucher_sessions._transport.keeper import started

WORKERS = 4


class Answer(NamedTuple):
    body: dict[str, object]
    worker: int
    master: int


class Gunicorn:
    """A running gunicorn."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> Answer:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as response:
            worker, master = map(int, response.headers["X-Process"].split())
            return Answer(json.load(response), worker, master)

    def answers(self) -> bool:
        assert self.process.poll() is None
        try:
            self.get("/health")
        except OSError:
            return False
        return True


class Browser:
    """A customer's, with its cookies."""

    def __init__(self, shop: Gunicorn, cookies: dict[str, str] | None = None) -> None:
        self._shop = shop
        self._cookies = dict(cookies or {})

    def tab(self) -> Browser:
        """Another one with the same cookies."""
        return Browser(self._shop, self._cookies)

    def post(self, path: str, **fields: str) -> str:
        """The page that a form leads to."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self._open("GET", "/"))
        assert token
        return self._open("POST", path, urlencode({"csrfmiddlewaretoken": token[1], **fields}))

    def _open(self, method: str, path: str, body: str = "") -> str:
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        headers = {"Cookie": cookies, "Content-Type": "application/x-www-form-urlencoded"}
        with closing(HTTPConnection("127.0.0.1", self._shop.port, timeout=60)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            page = response.read().decode()
            for cookie in response.headers.get_all("Set-Cookie", ()):
                self._cookies.update({name: morsel.value for name, morsel in SimpleCookie(cookie).items()})
        assert response.status in {200, 302, 409}, page
        return self._open("GET", response.headers["Location"]) if response.status == 302 else page


@contextmanager
def gunicorn(log: Path, *options: str, **environment: str) -> Iterator[Gunicorn]:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--bind", f"127.0.0.1:{port}", *options]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    with log.open("wb") as output:
        process = started([*command, "contrib.preloaded_shop"], env=variables, output=output)
    running = Gunicorn(process, port)
    try:
        until(running.answers)
        yield running
    except BaseException:
        print(log.read_text())
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def url(server_of: Callable[[str], Server]) -> str:
    server = server_of("valkey")
    with server.client() as admin:
        admin.flushall()
    return server.url


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        pytest.param(["--preload"], "", id="preload", marks=pytest.mark.long),
        pytest.param(["--preload", "--threads", "3"], "1", id="preload-threads-calls"),
        pytest.param(["--threads", "3"], "", id="threads", marks=pytest.mark.long),
    ],
)
def test_no_worker_gets_a_reply_of_another(url: str, options: list[str], calls: str, tmp_path: Path) -> None:
    """``calls``: a thread of the master is in a call at every moment, also when it forks."""
    paths = [f"/{kind}/{'x' * (number % 50 + 1)}-{number}" for number in range(200) for kind in ("echo", "async-echo")]
    with (
        gunicorn(tmp_path / "log", *options, VOUCHER_SESSIONS_URL=url, CALL_FOR_EVER=calls) as shop,
        ThreadPoolExecutor(8) as customers,
    ):
        answers = list(customers.map(shop.get, paths))
    for path, answer in zip(paths, answers, strict=True):
        code = path.rpartition("/")[2]
        assert answer.body == {"code": code, "credits": len(code)}
    workers, masters = {answer.worker for answer in answers}, {answer.master for answer in answers}
    assert len(workers) == WORKERS
    assert masters == ({shop.process.pid} if "--preload" in options else workers)


def test_two_customers_and_the_last_voucher(url: str, tmp_path: Path) -> None:
    """Whichever worker serves a request: one customer gets the voucher, the other is refused, and it is paid once."""
    with gunicorn(tmp_path / "log", "--preload", VOUCHER_SESSIONS_URL=url) as shop:
        mine, other = Browser(shop), Browser(shop)
        assert "Voucher LAST-ONE is kept for you" in mine.post("/", code="LAST-ONE")
        assert "This code is in use in another cart." in other.post("/", code="LAST-ONE")
        tabs = [mine.tab() for _ in range(8)]
        with ThreadPoolExecutor(8) as clicks:
            pages = list(clicks.map(lambda tab: tab.post("/pay"), tabs))
        assert all("paid with voucher LAST-ONE" in page for page in pages)
        assert "This code has been used up." in other.post("/", code="LAST-ONE")
    with VoucherSessions.from_url(url) as engine:
        assert engine.get_voucher("LAST-ONE").quantity.used == 1
