"""Vouchers, sessions, redemptions and findings as people see them in a terminal of 60 columns or more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from voucher_sessions import ActiveSession, Audit, Balance, Finding, Redemption, VoucherState
from voucher_sessions.bulk import Difference, RedemptionRow
from voucher_sessions.cli.output import Output, shown

# The least widths of columns: a key's beginning is not divided, and a time only between its date and its hours.
_WIDTHS: Final = {"session": 9, "expires at (UTC)": 10, "redeemed at (UTC)": 10, "": 8, "expiry": 7}
# By code: a voucher with its first sessions, None if there is no such voucher.
Watched: TypeAlias = Mapping[str, tuple[VoucherState, Sequence[ActiveSession]] | None]


class Part(NamedTuple):
    """A part of a bar: its name, its colour and its character. A terminal without UTF-8 shows the ASCII character."""

    name: str
    style: str
    char: str
    ascii_char: str


PARTS: Final = (
    Part("used", "blue", "█", "#"),
    Part("locked", "yellow", "▓", "="),
    Part("available", "green", "░", "."),
)


class Bar:
    """What is used, locked and available of a balance that has a limit, as wide as there is room."""

    def __init__(self, balance: Balance) -> None:
        available = max(0, (balance.limit or 0) - balance.used - balance.locked)
        self._amounts = (balance.used, balance.locked, available)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = Text(no_wrap=True)
        for part, cells in zip(PARTS, divided(self._amounts, options.max_width), strict=True):
            bar.append((part.ascii_char if options.ascii_only else part.char) * cells, part.style)
        yield bar

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(10, options.max_width), options.max_width)


def divided(amounts: Sequence[int], cells: int) -> list[int]:
    """Divide the cells of a bar in proportion to the amounts. Each amount above 0 has a cell, if there are enough."""
    total = sum(amounts)
    if not total:
        return [0] * (len(amounts) - 1) + [cells]
    shares = [amount * cells // total for amount in amounts]
    by_remainder = sorted(range(len(amounts)), key=lambda at: amounts[at] * cells % total, reverse=True)
    for at in by_remainder[: cells - sum(shares)]:
        shares[at] += 1
    for at, amount in enumerate(amounts):
        if amount and not shares[at] and max(shares) > 1:
            longest = [other for other in range(len(amounts)) if shares[other] == max(shares)]
            shares[min(longest, key=lambda other: amounts[other])] -= 1
            shares[at] = 1
    return shares


class Figures:
    """What is used, locked and available in figures, each with its colour and the character that its bar has."""

    def __init__(self, balance: Balance) -> None:
        self._balance = balance

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        balance = self._balance
        figures = Text()
        for part, amount in zip(PARTS, (balance.used, balance.locked, balance.available), strict=True):
            if amount is not None:
                char = "" if balance.limit is None else f"{part.ascii_char if options.ascii_only else part.char} "
                figures.append(f"{char}{amount} {part.name}", part.style).append("  ")
        yield figures.append("without limit" if balance.limit is None else f"of {balance.limit}")


def voucher_view(state: VoucherState) -> RenderableType:
    """A voucher: its code, and for each balance the figures and a bar."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="bold")
    table.add_column(ratio=1)
    for name, balance in balances(state):
        table.add_row(name, Figures(balance))
        if balance.limit is not None:
            table.add_row("", Bar(balance))
    return Group(code_text(state.code, style="bold"), "", table)


def vouchers_view(vouchers: Watched, rows: int | None = None) -> RenderableType:
    """Several vouchers: a row for each balance, with a bar, and when the first session expires.

    ``rows``: how many rows there is room for.
    """
    table = _table("voucher", "balance", "", ">used", ">locked", ">of", ">expiry")
    table.expand, table.padding, table.columns[2].ratio = True, (0, 1, 0, 0), 1
    left_out = 0
    for code, found in vouchers.items():
        cells = _rows_of(code, found)
        if left_out or (rows is not None and table.row_count + len(cells) > rows):
            left_out += 1
            continue
        for row in cells:
            table.add_row(*row)
    return Group(table, f"and {left_out} more: name those that you want to see") if left_out else table


def _rows_of(code: str, found: tuple[VoucherState, Sequence[ActiveSession]] | None) -> list[list[RenderableType]]:
    """The rows of a voucher. Its quantity has one only if that is limited, or if there is no other balance."""
    name: RenderableType = code_text(code, style="bold")
    if found is None:
        return [[name, Text("not found", "red")]]
    state, sessions = found
    shown_balances = list(balances(state))
    if state.quantity.limit is None and len(shown_balances) > 1:
        del shown_balances[0]
    expiry = duration(sessions[0].remaining_ms) if sessions else ""
    rows: list[list[RenderableType]] = []
    for what, balance in shown_balances:
        bar: RenderableType = "" if balance.limit is None else Bar(balance)
        limit = "no limit" if balance.limit is None else str(balance.limit)
        rows.append([name, what, bar, str(balance.used), str(balance.locked), limit, expiry])
        name, expiry = "", ""
    return rows


def balances(state: VoucherState) -> Iterator[tuple[str, Balance]]:
    """The balances of a voucher by name, without credits and points that it does not have."""
    yield "quantity", state.quantity
    for name, balance in (("credits", state.credits), ("points", state.points)):
        if balance.limit or balance.used or balance.locked:
            yield name, balance


def sessions_view(state: VoucherState, sessions: Sequence[ActiveSession], output: Output) -> RenderableType:
    """The live sessions of a voucher that expire first, and how many there are in all."""
    total = max(state.quantity.locked, len(sessions))
    if not sessions:
        return Text("no live sessions", style="dim")
    some = f"{total} live sessions" if total > 1 else "1 live session"
    which = f"{some}, the first {len(sessions)} to expire:" if total > len(sessions) else f"{some}:"
    amounts = [name for name in ("credits", "points") if any(getattr(each, name) for each in sessions)]
    table = _table("session", *(f">{name}" for name in amounts), ">time left", "expires at (UTC)")
    for each in sessions:
        figures = (str(getattr(each, name)) for name in amounts)
        table.add_row(output.key(each.key), *figures, duration(each.remaining_ms), moment(each.expires_at))
    return Group(which, table)


def session_view(session: ActiveSession, key: str) -> RenderableType:
    """One live session. ``key`` is its key as it may be shown."""
    return facts(
        ("session", key),
        ("locks", amounts(session.credits, session.points)),
        ("time left", duration(session.remaining_ms)),
        ("expires at", f"{moment(session.expires_at)} UTC"),
    )


def redemption_view(redemption: Redemption, output: Output) -> RenderableType:
    """One redemption."""
    rows: list[tuple[str, RenderableType]] = [
        ("redemption", code_text(redemption.id)),
        ("voucher", code_text(redemption.code)),
        ("redeemed", amounts(redemption.credits, redemption.points)),
        ("redeemed at", f"{moment(redemption.redeemed_at)} UTC"),
    ]
    if redemption.session_key is not None:
        rows.append(("session", output.key(redemption.session_key)))
    if back := given_back(redemption):
        rows.append(("rolled back", back))
    return facts(*rows)


def amounts(credits: int, points: int, quantity: int = 1) -> str:
    """The amounts of a session, a redemption or a rollback; those that are 0 are left out."""
    named = (f"{quantity} redemption", quantity), (f"{credits} credits", credits), (f"{points} points", points)
    return ", ".join(text for text, amount in named if amount) or "nothing"


def redemptions_view(redemptions: Sequence[Redemption], output: Output) -> RenderableType:
    """Redemptions, and what was given back of each. Columns in which all cells would be empty are left out."""
    optional: dict[str, Callable[[Redemption], str]] = {
        ">credits": lambda each: str(each.credits) if each.credits else "",
        ">points": lambda each: str(each.points) if each.points else "",
        "redeemed at (UTC)": lambda each: moment(each.redeemed_at),
        "session": lambda each: "" if each.session_key is None else output.key(each.session_key),
        "rolled back": given_back,
    }
    columns = {name: cell for name, cell in optional.items() if any(map(cell, redemptions))}
    table = _table("redemption", *columns)
    for each in redemptions:
        table.add_row(code_text(each.id), *(cell(each) for cell in columns.values()))
    return table


def given_back(redemption: Redemption | RedemptionRow) -> str:
    """What was rolled back of a redemption."""
    if redemption.rolled_back:
        return "all"
    parts = ((redemption.credits_rolled_back, "credits"), (redemption.points_rolled_back, "points"))
    return ", ".join(f"{amount} {name}" for amount, name in parts if amount)


def difference_text(difference: Difference) -> Text:
    """A difference between the shop's row and the receipt, in one line."""
    row, receipt = difference.row, difference.receipt
    in_file = "no row" if row is None else amounts(row.credits, row.points)
    on_server = "no receipt" if receipt is None else amounts(receipt.credits, receipt.points)
    if difference.kind == "rolled_back" and row is not None and receipt is not None:
        in_file, on_server = (f"rolled back: {given_back(each) or 'nothing'}" for each in (row, receipt))
    what = f"{shown(difference.code)}  {shown(difference.id)}"
    return Text(f"{difference.kind:10}  {what}  file: {in_file}; server: {on_server}", overflow="fold")


SEVERITY_STYLES: Final = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def findings_view(findings: Sequence[Finding]) -> RenderableType:
    """The findings of the check of a server, each with its remedy."""
    table = Table.grid(padding=(0, 2))
    for each in findings:
        subject = f"{each.subject} ({each.node})" if each.node else each.subject
        table.add_row(Text(each.severity, SEVERITY_STYLES[each.severity]), Text(shown(subject), "bold"))
        table.add_row("", shown(each.problem))
        table.add_row("", Text(f"-> {shown(each.remedy)}", "dim"))
    return table


def audit_view(audit: Audit) -> RenderableType:
    """The recorded totals of a voucher's locks beside the counted ones."""
    table = _table("locked", ">recorded", ">counted")
    for name in ("quantity", "credits", "points"):
        recorded, counted = getattr(audit.recorded, name), getattr(audit.counted, name)
        table.add_row(name, str(recorded), str(counted), style="" if recorded == counted else "red")
    return table


def facts(*rows: tuple[str, RenderableType]) -> RenderableType:
    """Names and values, one below the other."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def code_text(code: str, *, style: str = "") -> Text:
    """A code, or an id: whole, and without characters that change what a terminal shows."""
    return Text(shown(code), style=style, overflow="fold")


def duration(milliseconds: int) -> str:
    """A time that is left, in its two largest units."""
    seconds = milliseconds // 1_000
    minutes, hours, days = seconds // 60, seconds // 3_600, seconds // 86_400
    if days:
        return f"{days}d {hours % 24:02}h"
    if hours:
        return f"{hours}h {minutes % 60:02}m"
    return f"{minutes}m {seconds % 60:02}s" if minutes else f"{milliseconds // 100 / 10:.1f}s"


def moment(at: datetime) -> str:
    """A time in UTC, in whole seconds."""
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _table(*columns: str) -> Table:
    """A table whose cells are whole at every width. A column whose name begins with > is aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in columns:
        name = title.removeprefix(">")
        table.add_column(
            name, justify="left" if name == title else "right", overflow="fold", min_width=_WIDTHS.get(name)
        )
    return table
