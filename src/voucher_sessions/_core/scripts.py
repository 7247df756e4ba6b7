"""The Lua scripts, read from ``lua/``: one file a verb, and the blocks of ``book.lua`` that they include."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from pathlib import Path
from typing import Final

# The installed package's, or, where it is installed editable, the checkout's: live, as its Python is.
_FOLDERS: Final = (files("voucher_sessions") / "lua", Path(__file__).parents[3] / "lua")


@dataclass(frozen=True, slots=True)
class Script:
    """A script as it goes to the server. ``sha`` is the name under which the server keeps it."""

    name: str
    text: str = field(repr=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # Not for security: EVALSHA names scripts so.
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


def _source(name: str) -> str:
    folder = next(folder for folder in _FOLDERS if folder.is_dir())
    return (folder / f"{name}.lua").read_text("utf-8")


def _blocks(source: str) -> dict[str, str]:
    """The text of each block; what comes before the first is for readers."""
    _, *parts = re.split(r"^-- block: (\w+)\n", source, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _script(name: str) -> Script:
    return Script(name, _with_blocks(_source(name)))


def _with_blocks(text: str) -> str:
    """The text with each ``-- include: name`` replaced by that block, as far indented."""

    def block(include: re.Match[str]) -> str:
        return re.sub("^(?=.)", include[1], _with_blocks(_BLOCKS[include[2]]), flags=re.MULTILINE)

    return re.sub(r"^( *)-- include: (\w+)\n", block, text, flags=re.MULTILINE)


_BLOCKS: Final = _blocks(_source("book"))

PUT_VOUCHER: Final = _script("put_voucher")
GET_VOUCHER: Final = _script("get_voucher")
DELETE_VOUCHER: Final = _script("delete_voucher")
VALIDATE: Final = _script("validate")
REDEEM: Final = _script("redeem")
RELEASE: Final = _script("release")
ROLLBACK: Final = _script("rollback")
LIST_SESSIONS: Final = _script("list_sessions")
GET_REDEMPTION: Final = _script("get_redemption")
AUDIT: Final = _script("audit")
REPAIR: Final = _script("repair")
AGREE_ON_PARTITION: Final = _script("agree_on_partition")
CHECK_PERMISSIONS: Final = _script("check_permissions")

ALL: Final = (
    PUT_VOUCHER,
    GET_VOUCHER,
    DELETE_VOUCHER,
    VALIDATE,
    REDEEM,
    RELEASE,
    ROLLBACK,
    LIST_SESSIONS,
    GET_REDEMPTION,
    AUDIT,
    REPAIR,
    AGREE_ON_PARTITION,
    CHECK_PERMISSIONS,
)

# Every command that they call: a user of the server must be allowed each of them, and EVALSHA and EVAL.
COMMANDS: Final = tuple(sorted({name for script in ALL for name in re.findall(r"redis\.call\('(\w+)'", script.text)}))
