"""The application that a project adds to ``INSTALLED_APPS``."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.core.signals import setting_changed

from voucher_sessions.contrib.django import checks, conf, engines


class VoucherSessionsConfig(AppConfig):
    """Registers the system checks."""

    name = "voucher_sessions.contrib.django"
    label = "voucher_sessions"
    verbose_name = "Voucher sessions"

    def ready(self) -> None:
        """Register the checks, and make new engines when a test changes the setting."""
        register(checks.check_settings, checks.TAG)
        register(checks.check_deployment, checks.TAG, Tags.security, deploy=True)
        setting_changed.connect(_on_setting_changed, dispatch_uid=self.name)


def _on_setting_changed(*, setting: str, **_: Any) -> None:
    if setting == conf.SETTING:
        engines.forget()
