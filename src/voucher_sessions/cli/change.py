"""Commands that change one voucher, as a checkout or an operator does."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import typer
from rich.console import RenderableType

from voucher_sessions import TtlUnit, Used, Validation, Voucher
from voucher_sessions.cli import failures, views
from voucher_sessions.cli.options import Code, IfExists, SessionKey, TimeToLive, Ttl, Yes, time_to_live
from voucher_sessions.cli.output import shown
from voucher_sessions.cli.run import Run, command

PANEL: Final = "Change one voucher"

app: Final = typer.Typer()

# Shorter than the engine's 7 days, so that a lock that was set as a test does not last for a week.
DEFAULT_TTL: Final = TimeToLive(15, TtlUnit.MINUTES)

Credits = Annotated[int | None, typer.Option(metavar="N", help="Gift card credits, in minor units (cents).")]
Points = Annotated[int | None, typer.Option(metavar="N", help="Loyalty points.")]


def _id(what: str) -> Any:
    return typer.Option(
        "--id", metavar="ID", help=f"The id of the {what}: the same id makes it only once. Random if left out."
    )


@command(app, PANEL, changes=True, creates=True)
def put(
    run: Run,
    code: Code,
    quantity: Annotated[
        int | None, typer.Option(metavar="N", help="How often it can be redeemed; without limit if left out.")
    ] = None,
    credits: Annotated[int, typer.Option(metavar="N", help="A gift card's credits, in minor units (cents).")] = 0,
    points: Annotated[int, typer.Option(metavar="N", help="A loyalty card's points.")] = 0,
    used_quantity: Annotated[int | None, typer.Option(metavar="N", help="Set what is used of the quantity.")] = None,
    used_credits: Annotated[int | None, typer.Option(metavar="N", help="Set what is used of the credits.")] = None,
    used_points: Annotated[int | None, typer.Option(metavar="N", help="Set what is used of the points.")] = None,
    if_exists: Annotated[
        IfExists,
        typer.Option(metavar="ACTION", help="If there is such a voucher: update, keep it as it is, or raise an error."),
    ] = "update",
) -> None:
    """Create a voucher, or set the limits of an existing one.

    All three limits are set, also those that are left out. To change some of them, use adjust.
    """
    used = None
    if (used_quantity, used_credits, used_points) != (None, None, None):
        used = Used(quantity=used_quantity or 0, credits=used_credits or 0, points=used_points or 0)
    voucher = Voucher(code=code, quantity=quantity, credits=credits, points=points)
    state = run.engine.put_voucher(voucher, used=used, if_exists=if_exists)
    run.output.print_result(state, views.voucher_view(state))


@command(app, PANEL, changes=True)
def adjust(
    run: Run,
    code: Code,
    quantity: Annotated[int, typer.Option(metavar="±N", help="What to add to the limit of the quantity.")] = 0,
    credits: Annotated[int, typer.Option(metavar="±N", help="What to add to the limit of the credits.")] = 0,
    points: Annotated[int, typer.Option(metavar="±N", help="What to add to the limit of the points.")] = 0,
    adjustment_id: Annotated[str | None, _id("adjustment")] = None,
) -> None:
    """Add to the limits of a voucher, for example a top-up.

    A negative number lowers a limit. What is used and locked stays as it is.
    """
    made = run.engine.adjust(code, quantity=quantity, credits=credits, points=points, adjustment_id=adjustment_id)
    changes = (("quantity", made.quantity), ("credits", made.credits), ("points", made.points))
    facts = views.facts(
        ("adjustment", views.code_text(made.id)),
        ("added", ", ".join(f"{change:+} {name}" for name, change in changes if change)),
    )
    balances = () if made.voucher is None else ("", views.voucher_view(made.voucher))
    run.output.print_result(made, facts, *_replay_note(made.replayed), *balances)


@command(app, PANEL, changes=True)
def validate(
    run: Run,
    code: Code,
    credits: Annotated[int, typer.Option(metavar="N", help="Gift card credits that are wanted.")] = 0,
    points: Annotated[int, typer.Option(metavar="N", help="Loyalty points that are wanted.")] = 0,
    lock: Annotated[bool, typer.Option("--lock", help="Lock it for a session, with a random key.")] = False,
    session: Annotated[str | None, typer.Option(metavar="KEY", help="Lock it for the session of this key.")] = None,
    ttl: Annotated[
        TimeToLive | None,
        typer.Option(metavar="TIME", parser=time_to_live, help="How long to lock it: 90s, 2h, 1d; 15m if left out."),
    ] = None,
) -> int:
    """Check whether a voucher can be redeemed, and lock it if asked to.

    With --lock, --session or --ttl it locks one redemption and the amounts for a session. Validating again with the
    same key replaces the lock. Exit status 1 if it cannot be redeemed.
    """
    fields: dict[str, object] | None = None
    if lock or session is not None or ttl is not None:
        lives = ttl or DEFAULT_TTL
        fields = {"type": "LOCK", "key": session, "ttl": lives.ttl, "ttl_unit": lives.unit}
        run.generates_session_key = session is None
    validation = run.engine.validate(code, credits=credits, points=points, session=fields)
    is_locked = validation.valid and fields is not None
    if run.output.as_json:
        run.output.print_json(validation, whole_keys=is_locked)
    elif validation.session is not None and is_locked:
        run.output.print(
            f"locked: {shown(code)}", views.session_view(validation.session, shown(validation.session.key))
        )
    else:
        _print_validation(run, validation)
    return failures.DONE if validation.valid else failures.REFUSED


def _print_validation(run: Run, validation: Validation) -> None:
    """Print what was checked without a lock, or why there is none."""
    available = validation.available
    quantity = "without limit" if available.quantity is None else available.quantity
    if validation.valid:
        run.output.print(f"valid: {shown(validation.code)}")
    else:
        run.output.print(f"not valid: {shown(validation.code)}: {validation.reason}")
    if validation.retry_after_ms is not None:
        wait = views.duration(validation.retry_after_ms)
        run.output.print(f"other sessions have locked the rest; the next one expires in {wait}")
    if validation.reason != "not_found":
        run.output.print(f"available: quantity {quantity}, {available.credits} credits, {available.points} points")
    if validation.session is not None:
        run.output.print("the session stays as it was:")
        run.output.print(views.session_view(validation.session, run.output.key(validation.session.key)))


@command(app, PANEL, changes=True)
def redeem(
    run: Run,
    code: Code,
    credits: Credits = None,
    points: Points = None,
    session: Annotated[str | None, typer.Option(metavar="KEY", help="The session that has locked it.")] = None,
    redemption_id: Annotated[str | None, _id("redemption")] = None,
    if_session_missing: Annotated[
        Literal["raise", "redeem"],
        typer.Option(metavar="ACTION", help="If the session is not live: raise an error, or redeem."),
    ] = "raise",
) -> None:
    """Redeem a voucher, once and permanently.

    Without amounts it redeems what the session has locked. Without a session, name the amounts if the voucher has
    credits or points. Name an id, such as the order's number: then repeating the command redeems nothing more.
    """
    redeemed = run.engine.redeem(
        code,
        credits=credits,
        points=points,
        session=session,
        redemption_id=redemption_id,
        if_session_missing=if_session_missing,
    )
    run.output.print_result(redeemed, views.redemption_view(redeemed, run.output), *_replay_note(redeemed.replayed))


@command(app, PANEL, changes=True)
def release(run: Run, code: Code, session: SessionKey) -> int:
    """Release a session's lock before it expires.

    Exit status 1 if the session was not live.
    """
    released = run.engine.release(code, session)
    if run.output.as_json:
        run.output.print_json(released)
    elif released.released:
        run.output.print(f"released: session {run.output.key(session)} on {shown(code)}")
    else:
        known = ", but it was a moment ago" if released.ended else ""
        run.output.note(f"Error: session {run.output.key(session)} is not live on {shown(code)}{known}", style="red")
    return failures.DONE if released.released else failures.REFUSED


@command(app, PANEL, changes=True)
def extend(run: Run, code: Code, session: SessionKey, ttl: Ttl) -> None:
    """Give a session a new expiry, counted from now."""
    extended = run.engine.extend(code, session, ttl=ttl.ttl, ttl_unit=ttl.unit)
    run.output.print_result(extended, views.session_view(extended, run.output.key(extended.key)))


@command(app, PANEL, changes=True)
def rollback(
    run: Run,
    code: Code,
    redemption_id: Annotated[str, typer.Argument(metavar="REDEMPTION", help="The redemption id.")],
    credits: Credits = None,
    points: Points = None,
    rollback_id: Annotated[str | None, _id("partial rollback")] = None,
) -> None:
    """Undo a redemption, or give back a part of it.

    With amounts it gives back that much, and the rest stays spent. Name an id of a partial rollback, such as the
    refund's number: then repeating the command gives back nothing more.
    """
    made = run.engine.rollback(code, redemption_id, credits=credits, points=points, rollback_id=rollback_id)
    rows: list[tuple[str, RenderableType]] = [("redemption", views.code_text(made.redemption_id))]
    if made.id is not None:
        rows.append(("rollback", views.code_text(made.id)))
    rows.append(("given back", views.amounts(made.credits, made.points, made.quantity)))
    run.output.print_result(made, views.facts(*rows), *_replay_note(made.replayed))


@command(app, PANEL, changes=True)
def delete(run: Run, code: Code, yes: Yes = False) -> int:
    """Delete a voucher and all its sessions. Asks first.

    The receipts of its redemptions stay.
    """
    if not yes:
        live = run.engine.get_voucher(code).quantity.locked
        run.ask(f"Delete voucher {shown(code)} and its {live} live sessions?")
    deleted = run.engine.delete_voucher(code)
    if run.output.as_json:
        run.output.print_json(deleted)
    elif deleted:
        run.output.print(f"deleted: {shown(code)}")
    else:
        run.output.note(f"Error: there is no voucher {shown(code)}", style="red")
    return failures.DONE if deleted else failures.REFUSED


def _replay_note(replayed: bool) -> list[str]:
    """A line about an earlier call that made the change, if there was one."""
    return ["An earlier call with this id made this change; this call changed nothing."] if replayed else []
