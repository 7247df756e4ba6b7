"""Settings for development: without a database, and with a server for the vouchers that the library starts."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent

DEBUG = True
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only for development")
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
ROOT_URLCONF = "django_shop.urls"
WSGI_APPLICATION = "django_shop.wsgi.application"
INSTALLED_APPS = ["django.contrib.sessions", "voucher_sessions.contrib.django"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [HERE / "templates"]}]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
USE_TZ = True

VOUCHER_SESSIONS = {
    "URL": os.environ.get("VOUCHER_SESSIONS_URL", f"embedded://{HERE / 'vouchers'}"),
    "PREFIX": os.environ.get("VOUCHER_SESSIONS_PREFIX", "vs"),
    "DEFAULT_TTL": 15 * 60,
    "MAX_TTL": 15 * 60,
    "LOADER": "django_shop.catalogue.load",
}
