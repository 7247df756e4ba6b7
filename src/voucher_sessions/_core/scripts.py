"""The Lua scripts, read from ``lua/``: one file per verb, and ``book.lua`` with the blocks that the scripts share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from pathlib import Path
from typing import Final

# The folder in the installed package; in an editable install, the folder of the checkout, so that edits take effect.
_FOLDERS: Final = (files("voucher_sessions") / "lua", Path(__file__).parents[3] / "lua")


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script as it is sent. ``sha`` is its SHA1 digest, by which EVALSHA names it."""

    name: str
    text: str = field(repr=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # Not for security: EVALSHA requires SHA1.
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


def _source(name: str) -> str:
    folder = next(folder for folder in _FOLDERS if folder.is_dir())
    return (folder / f"{name}.lua").read_text("utf-8")


def _blocks(source: str) -> dict[str, str]:
    """The text of each block by its name. The text before the first block is documentation."""
    _, *parts = re.split(r"^-- block: (\w+)\n", source, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _script(name: str) -> Script:
    return Script(name, _with_blocks(_source(name)))


def _with_blocks(text: str) -> str:
    """The text with each ``-- include: name`` line replaced by that block, at the same indentation."""

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
ADJUST: Final = _script("adjust")
GET_SESSION: Final = _script("get_session")
EXTEND: Final = _script("extend")
PARTIAL_ROLLBACK: Final = _script("partial_rollback")
IMPORT_REDEMPTION: Final = _script("import_redemption")
SCAN: Final = _script("scan")
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
    ADJUST,
    GET_SESSION,
    EXTEND,
    PARTIAL_ROLLBACK,
    IMPORT_REDEMPTION,
    SCAN,
    AUDIT,
    REPAIR,
    AGREE_ON_PARTITION,
    CHECK_PERMISSIONS,
)

# Every command that the scripts call. The server's ACL must allow the user each of them, and EVALSHA and EVAL.
COMMANDS: Final = tuple(sorted({name for script in ALL for name in re.findall(r"redis\.call\('(\w+)'", script.text)}))
