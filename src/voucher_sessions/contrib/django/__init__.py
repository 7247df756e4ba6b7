"""Engines for a Django project, by the setting ``VOUCHER_SESSIONS``.

Add ``"voucher_sessions.contrib.django"`` to ``INSTALLED_APPS``. docs/django.md describes the setting.
"""

from voucher_sessions.contrib.django.engines import get_async_engine, get_engine

__all__ = ["get_async_engine", "get_engine"]
