"""The pages of the shop."""

from __future__ import annotations

from django.urls import path

from django_shop import checkout
from voucher_sessions.contrib.django.views import async_health, health

urlpatterns = [
    path("", checkout.cart, name="cart"),
    path("pay", checkout.pay, name="pay"),
    path("offers/<str:code>", checkout.offer, name="offer"),
    path("health", health, name="health"),
    path("async-health", async_health, name="async-health"),
]
