"""Reads the setting ``VOUCHER_SESSIONS``."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from voucher_sessions import Durability

SETTING: Final = "VOUCHER_SESSIONS"
# Keys that are options of the engine, in lower case.
_ENGINE_OPTIONS: Final = (
    "PREFIX",
    "PARTITION",
    "DURABILITY",
    "RECEIPT_TTL",
    "DEFAULT_TTL",
    "MAX_TTL",
    "LOADER",
    "ON_CALL",
)
# Keys whose value is a function, or the dotted path of one.
_FUNCTIONS: Final = frozenset(("PARTITION", "LOADER", "ON_CALL", "ENGINE", "ASYNC_ENGINE"))
_KEYS: Final = frozenset(("URL", "CLIENT_OPTIONS", *_ENGINE_OPTIONS, *_FUNCTIONS))


def read() -> dict[str, Any]:
    """The setting, with dotted paths replaced by the functions that they name.

    Raises ``ImproperlyConfigured`` if it is missing, or has a key or a path that is unknown.
    """
    given: object = getattr(settings, SETTING, None)
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f'{SETTING} must be a dict, for example {{"URL": "redis://localhost:6379/0"}}')
    for key in given:
        if key not in _KEYS:
            close = get_close_matches(str(key), _KEYS, n=1)
            raise ImproperlyConfigured(
                f"{SETTING} has no key {key!r}" + (f": did you mean {close[0]}?" if close else "")
            )
    if not isinstance(given.get("CLIENT_OPTIONS", {}), Mapping):
        raise ImproperlyConfigured(f"{SETTING}['CLIENT_OPTIONS'] must be a dict")
    return {key: _imported(key, value) if key in _FUNCTIONS else value for key, value in given.items()}


def url(given: Mapping[str, Any]) -> str:
    """Where the vouchers are. Raises ``ImproperlyConfigured`` if the setting does not say it."""
    if not given.get("URL"):
        raise ImproperlyConfigured(f'{SETTING} needs the key URL, for example "redis://localhost:6379/0"')
    found: str = given["URL"]
    return found


def engine_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``from_url`` beside the URL."""
    options = {key.lower(): given[key] for key in _ENGINE_OPTIONS if key in given}
    if isinstance(durability := options.get("durability"), Mapping):
        options["durability"] = Durability(**durability)
    return {**given.get("CLIENT_OPTIONS", {}), **options}


def _imported(key: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_imported(key, each) for each in value]
    if not isinstance(value, str):
        return value
    try:
        return import_string(value)
    except ImportError as error:
        raise ImproperlyConfigured(f"{SETTING}[{key!r}]: {error}") from error
