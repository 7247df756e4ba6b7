"""A logger of the standard library, and its records."""

from __future__ import annotations

import logging


class LogRecords(logging.Handler):
    """Keeps the records of its own ``logger``, which logs at every level."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.logger = logging.Logger("shop.vouchers")
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
