"""What the shop does with vouchers: lock one for a cart, pay an order with it, and show what a code is worth."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from django import forms
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from django_shop.catalogue import TOTAL, credits_for
from voucher_sessions import InvalidRequest, OutcomeUnknown, VoucherSessionsError
from voucher_sessions.contrib.django import get_async_engine, get_engine
from voucher_sessions.contrib.django.errors import error_code, form_error

TRIES: Final = 3


class VoucherForm(forms.Form):
    """Locks a voucher for the cart whose key it is given."""

    code = forms.CharField(max_length=256)

    def __init__(self, *args: Any, cart: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cart = cart

    def clean_code(self) -> str:
        """The code, if the voucher is locked for this cart now."""
        code: str = self.cleaned_data["code"]
        try:
            validation = get_engine().validate(
                code, credits=credits_for(code), session={"type": "LOCK", "key": self._cart}
            )
        except VoucherSessionsError as error:
            raise form_error(error) from error
        if not validation.valid:
            raise form_error(validation)
        return code


@require_http_methods(["GET", "POST"])
def cart(request: HttpRequest) -> HttpResponse:
    """Show the cart, and lock the voucher whose code is posted."""
    key = request.session.setdefault("cart", uuid4().hex)
    form = VoucherForm(request.POST or None, cart=key)
    if form.is_valid():
        if (before := request.session.get("code")) not in (None, form.cleaned_data["code"]):
            with suppress(VoucherSessionsError):  # if it cannot be released, it expires
                get_engine().release(before, key)
        request.session["code"] = form.cleaned_data["code"]
        return redirect("cart")
    return _page(request, form)


@require_POST
def pay(request: HttpRequest) -> HttpResponse:
    """Pay the cart with its voucher. Two clicks, or two tabs, pay once: they have the same redemption id."""
    key, code = request.session.get("cart"), request.session.get("code")
    if key is None or code is None:
        return redirect("cart")
    try:
        redeem(code, key)
    except VoucherSessionsError as error:
        form = VoucherForm({"code": code}, cart=key)
        form.errors["code"] = form.error_class(form_error(error).messages)
        return _page(request, form, status=400)
    request.session.flush()
    return render(request, "paid.html", {"code": code})


def redeem(code: str, key: str) -> None:
    """Redeem once, however often it is called for this cart; also if the customer took longer than the lock lives."""
    for attempt in range(1, TRIES + 1):
        try:
            get_engine().redeem(
                code,
                credits=credits_for(code),
                session=key,
                redemption_id=f"order-{key}",
                if_session_missing="redeem",
            )
        except OutcomeUnknown:  # the same call again, with the same id
            if attempt == TRIES:
                raise
        else:
            return


@require_GET
async def offer(request: HttpRequest, code: str) -> JsonResponse:
    """Whether a code could pay a cart. It locks nothing."""
    try:
        validation = await get_async_engine().validate(code, credits=credits_for(code))
    except VoucherSessionsError as error:
        status = 400 if isinstance(error, InvalidRequest) else 503
        return JsonResponse({"code": code, "valid": False, "reason": error_code(error)}, status=status)
    return JsonResponse(validation.model_dump(mode="json", include={"code", "valid", "reason", "locked_by_others"}))


def _page(request: HttpRequest, form: VoucherForm, status: int = 200) -> HttpResponse:
    context = {"form": form, "code": request.session.get("code"), "total": TOTAL}
    return render(request, "cart.html", context, status=status)
