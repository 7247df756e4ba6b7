"""Makes the pictures of the command line in README.md, from what it prints in a terminal.

PYTHONPATH=tests python -m documents.pictures
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Final

from cli.running import Terminal
from rich.console import Console
from rich.text import Text
from support.sessions import lock

from documents.examples import ROOT
from voucher_sessions import Used, Voucher, VoucherSessions

COLUMNS: Final = 84
MINUTE_MS: Final = 60_000
# The commands, and a text that shows that the output is there.
COMMANDS: Final = {"show": ("show", "GIFT-50"), "watch": ("watch",)}
# What leads out of the screen that `watch` has for itself. The last view follows.
END_OF_SCREEN: Final = "\x1b[?1049l"


def fill(engine: VoucherSessions) -> None:
    """A shop in the evening: a sale that is nearly over, a gift card and a loyalty card."""
    engine.put_voucher(Voucher(code="SALE-50", quantity=50), used=Used(quantity=38))
    engine.put_voucher(Voucher(code="GIFT-50", credits=5000), used=Used(quantity=2, credits=1200))
    engine.put_voucher(Voucher(code="LOYALTY-7", points=900), used=Used(points=150))
    for number in range(9):
        engine.validate("SALE-50", session=lock(f"ssn_{number}8rTqLm2ZxKwB4e", (number + 2) * MINUTE_MS))
    engine.validate("GIFT-50", credits=2500, session=lock("ssn_4hQz8sWnT2pLm0Vd", 12 * MINUTE_MS))
    engine.validate("GIFT-50", credits=400, session=lock("ssn_Vb3kTr9xQ7aYw1Ee", 14 * MINUTE_MS))
    engine.validate("LOYALTY-7", points=300, session=lock("ssn_x0PdLc5mK8uZr3Hs", 9 * MINUTE_MS))


def printed(url: str, name: str) -> str:
    """What a command prints in a terminal, with its colours."""
    with Terminal(*COMMANDS[name], url=url, columns=COLUMNS) as terminal:
        if name == "watch":
            terminal.wait_for("LOYALTY-7")
            terminal.interrupt()
        terminal.end()
        return terminal.raw.rpartition(END_OF_SCREEN)[2]


def picture(name: str, text: str) -> str:
    """The text as SVG. It loads no font: an image in a page could not."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    # Movements of the cursor are left out, colours are not.
    console.print(Text.from_ansi(re.sub(r"\x1b\[[0-?]*[@-ln-~]|\r", "", text)))
    title = " ".join(("voucher-sessions", *COMMANDS[name]))
    svg = console.export_svg(title=title, unique_id=name)
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)


def make(folder: Path) -> None:
    """Write the pictures into a folder."""
    with tempfile.TemporaryDirectory() as data:
        url = f"embedded://{data}"
        with VoucherSessions.from_url(url) as engine:
            fill(engine)
            for name in COMMANDS:
                (folder / f"{name}.svg").write_text(picture(name, printed(url, name)), "utf-8")


if __name__ == "__main__":
    make(ROOT / "docs")
    sys.stdout.write("docs/show.svg, docs/watch.svg\n")
