"""Which outcomes of a call are successes and which are trouble, for every module that reports calls."""

from __future__ import annotations

from typing import Final

from voucher_sessions.events import Outcome

# The call did what it was asked for.
SUCCESSES: Final[frozenset[Outcome]] = frozenset({"ok", "replayed"})
# The server, the network or the stored values are not as they should be. Every other outcome is a refusal: the library
# answered, and the answer was no.
TROUBLE: Final[frozenset[Outcome]] = frozenset({"not_durable", "unknown", "unavailable", "server_refused", "corrupt"})
