"""System checks: of the setting with every ``manage.py check``, of the server with ``check --deploy``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.core.checks import CheckMessage, Error, Info
from django.core.checks import Warning as Caution
from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import RedisClusterException, RedisError

from voucher_sessions import EmbeddedServerError, Finding, InvalidRequest, VoucherSessionsError
from voucher_sessions.contrib.django import conf, engines

TAG: Final = "voucher_sessions"
_LEVELS: Final = {"error": Error, "warning": Caution, "info": Info}


def check_settings(**_: Any) -> list[CheckMessage]:
    """Whether an engine can be made. It sends nothing to the server, unless the server is a cluster."""
    try:
        engines.get_engine()
    except (ImproperlyConfigured, InvalidRequest, EmbeddedServerError, ImportError) as error:
        return [Error(str(error), hint="docs/django.md describes settings.VOUCHER_SESSIONS.", id=f"{TAG}.E001")]
    except (RedisError, RedisClusterException) as error:
        return [_unanswered(error)]
    return []


def check_deployment(**_: Any) -> list[CheckMessage]:
    """What ``check_server`` finds, and settings that suit only development."""
    if check_settings():  # reported already
        return []
    given = conf.read()
    return [*_unsafe_settings(given), *_findings()]


def _unsafe_settings(given: dict[str, Any]) -> Iterator[CheckMessage]:
    if given.get("URL") in ("memory://", "embedded://"):
        yield Caution(
            f"{given['URL']} gives each process a server of its own, which ends with it.",
            hint="Set URL to a server that all processes share, for example redis://localhost:6379/0.",
            id=f"{TAG}.W001",
        )
    if "ENGINE" not in given and "MAX_TTL" not in given:
        yield Caution(
            "VOUCHER_SESSIONS has no MAX_TTL, so a session may ask to live for 3,650 days.",
            hint="Set it to some minutes: otherwise one request of a customer can lock a voucher for ten years.",
            id=f"{TAG}.W002",
        )


def _findings() -> list[CheckMessage]:
    try:
        return [_message(finding) for finding in engines.get_engine().check_server()]
    except (VoucherSessionsError, RedisError, RedisClusterException) as error:
        return [_unanswered(error)]


def _message(finding: Finding) -> CheckMessage:
    node = f" (server {finding.node})" if finding.node else ""
    return _LEVELS[finding.severity](f"{finding.problem}{node}", hint=finding.remedy, id=f"{TAG}.{finding.subject}")


def _unanswered(error: Exception) -> CheckMessage:
    return Error(f"The server of the vouchers cannot be checked: {error}", id=f"{TAG}.E002")
