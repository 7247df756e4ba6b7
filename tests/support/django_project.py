"""Sets Django up in this process, once, with the settings of the example shop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
import django_shop.settings
from django.conf import settings
from django.test.utils import override_settings

# Not by DJANGO_SETTINGS_MODULE: that sets the time zone of the process.
if not settings.configured:
    values = {name: value for name, value in vars(django_shop.settings).items() if name.isupper()}
    settings.configure(**{**values, "LOGGING_CONFIG": None})
    django.setup()


@contextmanager
def vouchers(**setting: Any) -> Iterator[None]:
    """In the block, ``settings.VOUCHER_SESSIONS`` has these keys. The engines are made anew, and closed at the end."""
    with override_settings(VOUCHER_SESSIONS=setting):
        yield
