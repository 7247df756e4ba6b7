"""Logs the calls of an engine.

    VoucherSessions(client, on_call=log_calls(logging.getLogger("shop.vouchers")))

A call that was refused is logged at INFO; a call that failed because of the server, the network or the stored values at
WARNING; all others at DEBUG.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias

from voucher_sessions import CallEvent, VoucherSessionsError
from voucher_sessions.contrib._outcomes import FAILURES, SUCCESSES

__all__ = ["StructuredLogger", "log_calls"]

StandardLogger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"


class StructuredLogger(Protocol):
    """A logger whose methods take facts as keyword arguments, such as a logger of structlog."""

    def debug(self, event: str, /, **facts: object) -> object:
        """Log at DEBUG."""

    def info(self, event: str, /, **facts: object) -> object:
        """Log at INFO."""

    def warning(self, event: str, /, **facts: object) -> object:
        """Log at WARNING."""


def log_calls(
    logger: StandardLogger | StructuredLogger, *, mask: Callable[[str], str] | None = None
) -> Callable[[CallEvent], None]:
    """Return an observer for ``on_call=`` that logs every call.

    A refusal is logged at INFO. A failure of the server or the network, an unknown outcome and damaged stored values are
    logged at WARNING. Everything else is logged at DEBUG, which takes very little time if that level is not enabled.

    The facts of the call are attributes of the log record (``extra``), so a JSON formatter writes them as fields; a
    logger of structlog gets them as keyword arguments. They are always the same: ``verb``, ``codes``, ``outcome``,
    ``reason``, ``locked_by_others``, ``credits``, ``points``, ``redemption_id``, ``session_key``, ``seconds``,
    ``error_type`` and ``error_message``.

    Session keys are shortened. **Voucher codes are shown in full**, because a log is where people look up why a voucher
    was refused. If a reader of the log must not be able to use a code, for example that of a gift card, pass ``mask``.

    Args:
        logger: A logger, or a ``LoggerAdapter``, of the standard library; or a logger of structlog.
        mask: A function that is called with each code and returns what to show instead, for example its last characters
            or a keyed hash of it. The texts of errors contain codes, so with ``mask`` they are left out.
    """
    if isinstance(logger, logging.Logger | logging.LoggerAdapter):
        return _standard(logger, mask)
    return _structured(logger, mask)


def _standard(logger: StandardLogger, mask: Callable[[str], str] | None) -> Callable[[CallEvent], None]:
    def observe(event: CallEvent) -> None:
        level = _level(event)
        if logger.isEnabledFor(level):
            text, facts = _described(event, mask)
            _log(logger, level, text, facts)

    return observe


def _log(logger: StandardLogger, level: int, text: str, facts: dict[str, object]) -> None:
    """Log with the facts; an adapter adds its own. By itself it would log its own instead of them."""
    if isinstance(logger, logging.LoggerAdapter):
        text, options = logger.process(text, {"extra": facts})
        _log(logger.logger, level, text, {**(options.get("extra") or {}), **facts})
    else:
        logger.log(level, text, extra=facts)


def _structured(logger: StructuredLogger, mask: Callable[[str], str] | None) -> Callable[[CallEvent], None]:
    def observe(event: CallEvent) -> None:
        text, facts = _described(event, mask)
        # Not by a table of the methods: structlog can make a new logger each time one is looked up.
        level = _level(event)
        if level == logging.DEBUG:
            logger.debug(text, **facts)
        elif level == logging.INFO:
            logger.info(text, **facts)
        else:
            logger.warning(text, **facts)

    return observe


def _level(event: CallEvent) -> int:
    if event.outcome in SUCCESSES:
        return logging.DEBUG
    return logging.WARNING if event.outcome in FAILURES else logging.INFO


def _described(event: CallEvent, mask: Callable[[str], str] | None) -> tuple[str, dict[str, object]]:
    """The call in one line, and its facts."""
    codes = event.codes if mask is None else tuple(map(mask, event.codes))
    error_type = None if event.error is None else type(event.error).__qualname__
    # Other errors, such as a loader's, can have a password in their text. They reach the caller, who may log them.
    shows_error = isinstance(event.error, VoucherSessionsError) and mask is None
    error_message = str(event.error) if shows_error else None
    facts: dict[str, object] = {
        "verb": event.verb,
        "codes": codes,
        "outcome": event.outcome,
        "reason": event.reason,
        "locked_by_others": event.locked_by_others,
        "credits": event.credits,
        "points": event.points,
        "redemption_id": event.redemption_id,
        "session_key": event.session_key,
        "seconds": event.seconds,
        "error_type": error_type,
        "error_message": error_message,
    }
    # Quoted by repr, so that a line break in a code does not begin a new line.
    of_codes = f" of {', '.join(map(repr, codes))}" if codes else ""
    session = f", session {event.session_key!r}" if event.session_key else ""
    why = error_message or event.reason or error_type
    return f"{event.verb}{of_codes}{session}: {event.outcome}" + (f" ({why})" if why else ""), facts
