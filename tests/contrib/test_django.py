"""The engines of a Django project, its checks, its health views, its command and its error codes."""

from __future__ import annotations

import asyncio
import gettext
import json
import re
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import ERROR, INFO, WARNING, CheckMessage, run_checks
from django.core.checks.registry import registry
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.core.signals import setting_changed
from django.test import AsyncClient, Client, RequestFactory
from django.test.utils import override_settings
from django.utils import translation
from django.utils.asyncio import async_unsafe
from support.django_project import vouchers
from support.one_of_each_error import one_of_each_error
from support.servers import Server, free_port
from support.sessions import lock

import voucher_sessions
from voucher_sessions import (
    AsyncVoucherSessions,
    Durability,
    Finding,
    InvalidRequest,
    LimitExceeded,
    QuantityExceeded,
    Voucher,
    VoucherSessions,
)
from voucher_sessions.contrib.django import checks, conf, engines, get_async_engine, get_engine
from voucher_sessions.contrib.django.errors import error_code, form_error

ONCE = Voucher(code="ONCE", quantity=1)


@pytest.fixture
def url(server_of: Callable[[str], Server]) -> str:
    server = server_of("valkey")
    with server.client() as admin:
        admin.flushall()
    return server.url


# Engines


def test_both_engines_have_the_same_vouchers(url: str) -> None:
    with vouchers(URL=url, PREFIX="shop"):
        get_engine().put_voucher(ONCE)
        assert asyncio.run(get_async_engine().validate("ONCE")).valid
        with VoucherSessions.from_url(url, prefix="shop") as engine:
            assert engine.get_voucher("ONCE").quantity.limit == 1


def test_threads_share_one_engine() -> None:
    started = threading.Barrier(16)

    def engine(_: int) -> VoucherSessions:
        started.wait(20)
        return get_engine()

    with vouchers(URL="memory://"), ThreadPoolExecutor(16) as threads:
        assert len({id(each) for each in threads.map(engine, range(16))}) == 1


def test_event_loops_share_one_asyncio_engine(url: str) -> None:
    async def engine() -> AsyncVoucherSessions:
        await get_async_engine().put_voucher(ONCE)
        return get_async_engine()

    with vouchers(URL=url):
        assert len({id(asyncio.run(engine())) for _ in range(3)}) == 1


def test_a_forked_process_makes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if another thread of the parent was about to make one. test_django_on_gunicorn really forks."""
    with vouchers(URL="memory://"):
        of_parent = get_engine()
        monkeypatch.setattr("os.getpid", lambda: -1)
        of_child = get_engine()
        assert of_child is get_engine() is not of_parent
        making = engines._engine._locks.setdefault(-2, threading.Lock())
        with making:
            monkeypatch.setattr("os.getpid", lambda: -3)
            with ThreadPoolExecutor(1) as threads:
                assert threads.submit(get_engine).result(20) not in {of_parent, of_child}
        for process in (-1, -3):
            monkeypatch.setattr("os.getpid", lambda process=process: process)
            engines.forget()


def test_a_changed_setting_makes_new_engines() -> None:
    with vouchers(URL="memory://"):
        engine, async_engine = get_engine(), get_async_engine()
        engine.put_voucher(ONCE)
        with vouchers(URL="memory://"):
            assert get_engine() is not engine
            assert get_async_engine() is not async_engine
            assert get_engine().validate("ONCE").reason == "not_found"


def test_another_changed_setting_does_not() -> None:
    with vouchers(URL="memory://"):
        engine = get_engine()
        with override_settings(DEBUG=False):
            assert get_engine() is engine


def partition(code: str) -> str:
    return code.partition("-")[0]


def on_call(event: object) -> None:
    """For the setting; the engines of these tests do not call it."""


NAMED = f"{__name__}.on_call"


@pytest.mark.parametrize(("get", "kind"), [(get_engine, VoucherSessions), (get_async_engine, AsyncVoucherSessions)])
def test_the_options_of_the_engine(
    get: Callable[[], object], kind: type[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def from_url(url: str, **options: Any) -> None:
        given.append({"url": url, **options})

    monkeypatch.setattr(kind, "from_url", from_url)
    with vouchers(
        URL="redis://host",
        PREFIX="shop",
        PARTITION=f"{__name__}.partition",
        DURABILITY={"replicas": 1},
        RECEIPT_TTL=timedelta(days=400),
        DEFAULT_TTL=900,
        MAX_TTL=1800,
        ON_CALL=[NAMED, on_call],
        CLIENT_OPTIONS={"socket_timeout": 2},
    ):
        get()
    assert given == [
        {
            "url": "redis://host",
            "prefix": "shop",
            "partition": partition,
            "durability": Durability(replicas=1),
            "receipt_ttl": timedelta(days=400),
            "default_ttl": 900,
            "max_ttl": 1800,
            "on_call": [on_call, on_call],
            "socket_timeout": 2,
        }
    ]


@async_unsafe
def load_by_orm(code: str) -> Voucher:
    """As Django's ORM, it refuses to run in an event loop."""
    return Voucher(code=code, quantity=1)


async def load_async(code: str) -> Voucher:
    await asyncio.sleep(0)
    return Voucher(code=code, quantity=1)


@pytest.mark.parametrize("loader", ["load_by_orm", "load_async"])
def test_a_loader_serves_both_engines(loader: str) -> None:
    with vouchers(URL="memory://", LOADER=f"{__name__}.{loader}"):
        assert get_engine().validate("A").valid
        assert asyncio.run(get_async_engine().validate("A")).valid


def test_without_a_loader_a_code_is_unknown() -> None:
    with vouchers(URL="memory://"):
        assert asyncio.run(get_async_engine().validate("A")).reason == "not_found"


def make_engine() -> VoucherSessions:
    return VoucherSessions.from_url("memory://", prefix="made by the shop")


def make_async_engine() -> AsyncVoucherSessions:
    return AsyncVoucherSessions.from_url("memory://")


def test_a_shop_can_make_its_engines_itself() -> None:
    with vouchers(ENGINE=f"{__name__}.make_engine", ASYNC_ENGINE=make_async_engine):
        assert get_engine() is get_engine()
        get_engine().put_voucher(ONCE)
        assert list(get_engine().client.scan_iter("made by the shop:*"))
        assert isinstance(get_async_engine(), AsyncVoucherSessions)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({}, r'VOUCHER_SESSIONS needs the key URL, for example "redis://localhost:6379/0"'),
        ({"URL": ""}, "VOUCHER_SESSIONS needs the key URL"),
        ({"URL": "memory://", "MAXTTL": 5}, "VOUCHER_SESSIONS has no key 'MAXTTL': did you mean MAX_TTL?"),
        ({"URL": "memory://", 7: 5}, "VOUCHER_SESSIONS has no key 7$"),
        ({"URL": "memory://", "LOADER": "nowhere.load"}, r"VOUCHER_SESSIONS\['LOADER'\]: No module named 'nowhere'"),
        *(
            (
                {"ENGINE": wrong, "ASYNC_ENGINE": wrong},
                r"ENGINE'\] must be a function that returns a (Async)?VoucherSessions",
            )
            for wrong in (dict, None, 5)
        ),
        *(
            ({"URL": "memory://", "CLIENT_OPTIONS": wrong}, r"\['CLIENT_OPTIONS'\] must be a dict")
            for wrong in (None, ["socket_timeout"])
        ),
    ],
)
def test_a_wrong_setting(setting: dict[Any, Any], problem: str) -> None:
    with override_settings(VOUCHER_SESSIONS=setting):
        for get in (get_engine, get_async_engine):
            with pytest.raises(ImproperlyConfigured, match=problem):
                get()
        (message,) = run_checks(tags=["voucher_sessions"])
        assert message.id == "voucher_sessions.E001"
        assert re.search(problem, message.msg)


def test_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(VOUCHER_SESSIONS=None), pytest.raises(ImproperlyConfigured, match="must be a dict"):
        conf.read()


# Checks


def by_id(messages: list[CheckMessage]) -> dict[str | None, CheckMessage]:
    return {message.id: message for message in messages}


def deployment() -> dict[str | None, CheckMessage]:
    return by_id(run_checks(tags=["voucher_sessions"], include_deployment_checks=True))


def test_a_right_setting_has_no_message(url: str) -> None:
    with vouchers(URL=url, MAX_TTL=900):
        assert run_checks(tags=["voucher_sessions"]) == []


def test_a_value_that_the_engine_refuses() -> None:
    with vouchers(URL="memory://", MAX_TTL=-1):
        (message,) = run_checks(tags=["voucher_sessions"])
        assert (message.level, message.id) == (ERROR, "voucher_sessions.E001")
        assert message.msg.startswith("max_ttl: ")
        with pytest.raises(InvalidRequest):
            get_engine()
        assert deployment().keys() == {"voucher_sessions.E001"}


def test_the_deployment_check_asks_the_server(url: str) -> None:
    """The server of the tests keeps nothing on its disk."""
    with vouchers(URL=url, MAX_TTL=900):
        findings = {f"voucher_sessions.{each.subject}": each for each in get_engine().check_server()}
        messages = deployment()
        assert messages.keys() == findings.keys()
        message = messages["voucher_sessions.persistence"]
        assert message.level == ERROR
        assert (message.msg, message.hint) == (
            findings["voucher_sessions.persistence"].problem,
            findings["voucher_sessions.persistence"].remedy,
        )
        assert messages["voucher_sessions.replicas"].level == WARNING


def test_each_severity_is_a_level_and_each_node_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Finding(node="10.0.0.1:6379", severity=severity, subject=severity, problem="It is slow.", remedy="Hurry.")
        for severity in ("error", "warning", "info")
    ]
    monkeypatch.setattr(VoucherSessions, "check_server", lambda self: found)
    with vouchers(URL="memory://", MAX_TTL=900):
        messages = deployment()
    assert messages["voucher_sessions.info"].msg == "It is slow. (server 10.0.0.1:6379)"
    assert [messages[f"voucher_sessions.{each.severity}"].level for each in found] == [ERROR, WARNING, INFO]


def test_an_application_that_is_made_ready_twice_registers_once() -> None:
    def registered() -> tuple[int, int, int]:
        return len(registry.registered_checks), len(registry.deployment_checks), len(setting_changed.receivers)

    before = registered()
    apps.get_app_config("voucher_sessions").ready()
    assert registered() == before
    assert {checks.check_settings, checks.check_deployment} <= registry.registered_checks | registry.deployment_checks


def test_settings_that_suit_only_development() -> None:
    with vouchers(URL="memory://"):
        messages = deployment()
    assert {"voucher_sessions.W001", "voucher_sessions.W002"} <= messages.keys()
    with vouchers(ENGINE=make_engine):
        messages = deployment()
    assert {"voucher_sessions.W001", "voucher_sessions.W002"}.isdisjoint(messages)


def test_a_server_that_does_not_answer() -> None:
    with vouchers(URL=f"redis://127.0.0.1:{free_port()}", MAX_TTL=900, CLIENT_OPTIONS={"retry": None}):
        assert run_checks(tags=["voucher_sessions"]) == []
        (message,) = deployment().values()
    assert (message.level, message.id) == (ERROR, "voucher_sessions.E002")


def test_a_cluster_that_does_not_answer() -> None:
    """Its client connects when it is made."""
    with vouchers(URL=f"redis+cluster://127.0.0.1:{free_port()}", MAX_TTL=900):
        (message,) = run_checks(tags=["voucher_sessions"])
    assert message.id == "voucher_sessions.E002"


def test_the_check_command(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with vouchers(URL=url, MAX_TTL=900):
        call_command("check", tags=["voucher_sessions"])
        assert "no issues" in capsys.readouterr().out
        with pytest.raises(CommandError, match=r"voucher_sessions\.persistence"):
            call_command("check", deploy=True, tags=["voucher_sessions"])


# Health


def test_health_while_the_server_answers(url: str) -> None:
    async def asynchronously() -> Any:
        return await AsyncClient().get("/async-health")

    with vouchers(URL=url):
        for response in (Client().get("/health"), asyncio.run(asynchronously())):
            assert response.status_code == 200
            assert response.json() == {"status": "ok"}
            assert "no-store" in response["Cache-Control"]
        assert Client().post("/health").status_code == 405


def test_health_while_it_does_not() -> None:
    async def asynchronously() -> Any:
        return await AsyncClient().get("/async-health")

    with vouchers(URL=f"redis://127.0.0.1:{free_port()}", CLIENT_OPTIONS={"retry": None}):
        for response in (Client().get("/health"), asyncio.run(asynchronously())):
            assert response.status_code == 503
            assert response.json() == {"status": "unavailable"}
            assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("is_up", [True, False])
def test_the_check_for_django_health_check(url: str, is_up: bool) -> None:
    from health_check.views import HealthCheckView

    view = HealthCheckView.as_view(checks=["voucher_sessions.contrib.django.health_check.VoucherSessionsHealthCheck"])

    async def answer() -> Any:
        return await view(RequestFactory().get("/", HTTP_ACCEPT="application/json"))

    used = url if is_up else f"redis://127.0.0.1:{free_port()}"
    with vouchers(URL=used, CLIENT_OPTIONS={"retry": None}):
        response = asyncio.run(answer())
    assert response.status_code == (200 if is_up else 500)
    (status,) = json.loads(response.content).values()
    assert status == ("OK" if is_up else "Unavailable: the server of the vouchers does not answer")


# The command


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the command line gets; it ends with the number of its arguments as exit status, 3 becoming 0."""
    given: list[str] = []

    def main(arguments: list[str]) -> int:
        given.extend(arguments)
        return len(arguments) - 3

    monkeypatch.setattr("voucher_sessions.cli.main", main)
    yield given
    given.clear()


def test_the_command_is_the_command_line(arguments: list[str]) -> None:
    with vouchers(URL="redis://:secret@host"):
        call_command("voucher_sessions", "check")
    assert arguments == ["--url", "redis://:secret@host", "check"]


def test_the_command_passes_options_and_the_exit_status_on(arguments: list[str]) -> None:
    with vouchers(URL="redis://host", PREFIX="shop", PARTITION=partition), pytest.raises(SystemExit) as ended:
        call_command("voucher_sessions", "--", "--json", "show", "-A", "--show-keys")
    assert ended.value.code == 7
    shared = ["--url", "redis://host", "--prefix", "shop", "--partition", f"{__name__}:partition"]
    assert arguments == [*shared, "--json", "show", "-A", "--show-keys"]


def test_the_command_needs_a_url(arguments: list[str]) -> None:
    with vouchers(ENGINE=make_engine), pytest.raises(CommandError, match="VOUCHER_SESSIONS needs the key URL"):
        call_command("voucher_sessions", "show", "A")
    assert arguments == []


# Errors


TROUBLE = "We cannot check this code at the moment. Please try again later."
OTHERWISE = "This code cannot be used here."
# These codes are promised: a shop stores and translates them.
CODES = {
    "AdjustmentConflict": ("adjustment_conflict", OTHERWISE),
    "AdjustmentRefused": ("adjustment_refused", OTHERWISE),
    "AmountRequired": ("amount_required", OTHERWISE),
    "CorruptState": ("corrupt_state", TROUBLE),
    "CrossSlotStack": ("cross_slot_stack", OTHERWISE),
    "EmbeddedServerError": ("embedded_server_error", TROUBLE),
    "GiftAmountExceeded": ("gift_amount_exceeded", "The balance of this gift card is too low."),
    "InvalidRequest": ("invalid_request", OTHERWISE),
    "LimitExceeded": ("quantity_exceeded", "This code has been used up."),
    "LoyaltyPointsExceeded": ("loyalty_card_points_exceeded", "There are not enough points on this card."),
    "NotDurable": ("not_durable", TROUBLE),
    "OutcomeUnknown": ("outcome_unknown", TROUBLE),
    "QuantityExceeded": ("quantity_exceeded", "This code has been used up."),
    "RedemptionConflict": ("redemption_conflict", OTHERWISE),
    "RedemptionNotFound": ("redemption_not_found", OTHERWISE),
    "RedemptionRolledBack": ("redemption_rolled_back", "This payment was cancelled. Please start a new one."),
    "RollbackExceeded": ("rollback_exceeded", OTHERWISE),
    "ServerRefused": ("server_refused", TROUBLE),
    "ServerUnavailable": ("server_unavailable", TROUBLE),
    "SessionNotFound": (
        "session_not_found",
        "Your code was kept for you for a limited time, which has passed. Please enter it again.",
    ),
    "UnknownFormat": ("unknown_format", TROUBLE),
    "VoucherExists": ("voucher_exists", OTHERWISE),
    "VoucherNotFound": ("voucher_not_found", "This code does not exist."),
    "VoucherSessionsError": ("voucher_sessions_error", OTHERWISE),
}


def test_each_error_has_a_code_and_a_sentence() -> None:
    seen = {type(error).__name__: (error_code(error), form_error(error).messages[0]) for error in one_of_each_error()}
    assert seen == CODES
    for error in one_of_each_error():
        assert form_error(error).code == error_code(error)


@pytest.mark.parametrize(
    ("wait_ms", "minutes", "sentence"),
    [(1, 1, "in 1 minute."), (60_000, 1, "in 1 minute."), (60_001, 2, "in 2 minutes.")],
)
def test_what_others_have_locked_can_be_available_in_some_minutes(wait_ms: int, minutes: int, sentence: str) -> None:
    error: LimitExceeded = QuantityExceeded("A", "quantity_exceeded", 1, 0, True, wait_ms)
    shown = form_error(error)
    assert shown.code == "quantity_exceeded"
    assert shown.params == {"minutes": minutes, "locked_by_others": True}
    assert shown.messages == [f"This code is in use in another cart. Please try again {sentence}"]


def test_validations_that_were_refused() -> None:
    with vouchers(URL="memory://"):
        unknown = form_error(get_engine().validate("ONCE"))
        assert (unknown.code, unknown.messages) == ("voucher_not_found", ["This code does not exist."])
        get_engine().put_voucher(ONCE)
        get_engine().validate("ONCE", session=lock("cart"))
        locked = form_error(get_engine().validate("ONCE"))
        assert (locked.code, locked.params) == ("quantity_exceeded", {"minutes": 1, "locked_by_others": True})
        get_engine().redeem("ONCE", session="cart")
        used_up = form_error(get_engine().validate("ONCE"))
        assert (used_up.messages, used_up.params) == (
            ["This code has been used up."],
            {"minutes": 0, "locked_by_others": False},
        )


def compiled(catalogue: dict[str, str]) -> bytes:
    """A catalogue in the format of GNU gettext."""
    texts = {"": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n", **catalogue}
    pairs = [(key.encode(), text.encode()) for key, text in sorted(texts.items())]
    start, data, tables = 28 + 16 * len(pairs), b"", (b"", b"")
    for side in (0, 1):
        for pair in pairs:
            tables = (
                tables[0] + struct.pack("<II", len(pair[0]), start + len(data)) if side == 0 else tables[0],
                tables[1] + struct.pack("<II", len(pair[1]), start + len(data)) if side == 1 else tables[1],
            )
            data += pair[side] + b"\0"
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, start)
    return header + tables[0] + tables[1] + data


def test_a_project_translates_the_sentences(tmp_path: Path) -> None:
    messages = tmp_path / "de" / "LC_MESSAGES" / "django.mo"
    messages.parent.mkdir(parents=True)
    one, many = (
        f"This code is in use in another cart. Please try again in %(minutes)d {each}."
        for each in ("minute", "minutes")
    )
    messages.write_bytes(
        compiled(
            {
                "This code does not exist.": "Diesen Code gibt es nicht.",
                f"{one}\0{many}": "In einer Minute wieder.\0In %(minutes)d Minuten wieder.",
            }
        )
    )
    with messages.open("rb") as file:
        assert gettext.GNUTranslations(file).gettext("This code does not exist.") == "Diesen Code gibt es nicht."
    unknown = form_error(voucher_sessions.VoucherNotFound("A"))
    locked = form_error(QuantityExceeded("A", "quantity_exceeded", 1, 0, True, 120_000))
    with override_settings(LOCALE_PATHS=[tmp_path], USE_I18N=True), translation.override("de"):
        assert unknown.messages == ["Diesen Code gibt es nicht."]
        assert locked.messages == ["In 2 Minuten wieder."]
