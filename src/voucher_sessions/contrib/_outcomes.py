"""Which outcomes of a call are successes and which are failures, for the modules that report calls."""

from __future__ import annotations

from typing import Final

from voucher_sessions.events import Outcome

# The call did what it was asked for.
SUCCESSES: Final[frozenset[Outcome]] = frozenset({"ok", "replayed"})
# Something is wrong with the server, the network or the stored values. Every other outcome is a refusal.
FAILURES: Final[frozenset[Outcome]] = frozenset({"not_durable", "unknown", "unavailable", "server_refused", "corrupt"})
