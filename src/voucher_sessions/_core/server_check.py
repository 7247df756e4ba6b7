"""What a server must be like for the engine's promises to hold: what to ask it, and what its answers mean; no I/O.

An engine puts the questions to each of its servers, one command each, and hands over the answers as they came. A
question that a server refuses (a provider forbids CONFIG, say) is a finding too and never an error, so that
``check_server`` tells all that can be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, get_args

from voucher_sessions._core import failures, scripts
from voucher_sessions._core.call import Arg, Call
from voucher_sessions.errors import CorruptState
from voucher_sessions.models import Durability
from voucher_sessions.results import Finding, Severity

# SET with PXAT, which keeps a lock's expiry exact to the millisecond, came with 6.2; every Valkey has it.
_OLDEST: Final = (6, 2)
_MAX_CLOCK_SECONDS: Final = 1.0

# What is wanted from INFO, and the settings that it does not tell.
_FIELDS: Final = ("redis_version", "role", "connected_slaves", "maxmemory", "maxmemory_policy", "aof_enabled")
_SETTINGS: Final = ("save", "appendfsync", "lazyfree-lazy-expire")

# What the engine sends, and what of it only where there is a durability=.
_CONFIRMING: Final = ("WAIT", "WAITAOF")
_SENT: Final = ("EVALSHA", "EVAL", *_CONFIRMING)

# Each command of the scripts in a form that is judged in full and yet writes nothing, whatever else is allowed.
_TRIALS: Final = {
    "GET": "GET @",
    "MGET": "MGET @",
    "PEXPIREAT": "PEXPIREAT @ 1",
    "SET": "SET @ 0 XX PXAT 1",
    "TIME": "TIME",
    "UNLINK": "UNLINK @",
    "ZADD": "ZADD @ XX 0 0",
    "ZCARD": "ZCARD @",
    "ZRANGE": "ZRANGE @ 0 0",
    "ZRANGEBYSCORE": "ZRANGEBYSCORE @ 0 0",
    "ZREM": "ZREM @ 0",
    "ZREMRANGEBYRANK": "ZREMRANGEBYRANK @ 0 0",
}
TRIALS: Final = ",".join(_TRIALS[command] for command in scripts.COMMANDS)


class Answer(NamedTuple):
    """What a server said, or the error with which it refused; by the client's clock, when asked and when answered."""

    said: Any
    asked_at: float
    answered_at: float


def questions(permissions: Call[dict[str, str]], durability: Durability | None) -> dict[str, tuple[Arg, ...]]:
    """The commands to send to a server, none of which changes anything.

    ``permissions`` is the call that tries what the scripts do. It is sent by EVALSHA and by EVAL, both of which the
    engine needs.
    """
    numbered = len(permissions.keys), *permissions.keys, *permissions.args
    asked: dict[str, tuple[Arg, ...]] = {
        "TIME": ("TIME",),
        "INFO": ("INFO",),
        **{f"CONFIG GET {name}": ("CONFIG GET", name) for name in _SETTINGS},
        "EVALSHA": ("EVALSHA", permissions.script.sha, *numbered),
        "EVAL": ("EVAL", permissions.script.text, *numbered),
    }
    if durability is not None:
        asked |= {"WAITAOF": ("WAITAOF", 0, 0, 1)} if durability.fsync else {"WAIT": ("WAIT", 0, 1)}
    return asked


def findings(
    node: str,
    answers: Mapping[str, Answer],
    permissions: Call[dict[str, str]],
    durability: Durability | None,
) -> list[Finding]:
    """What the answers of one server mean, the gravest first."""
    facts = _Facts(answers, permissions, durability)
    try:
        found = [Finding(node=node, **flaw._asdict()) for rule in _RULES for flaw in rule(facts)]
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise CorruptState("check_server: the server's answers are not of the form that Redis gives them") from error
    return sorted(found, key=lambda finding: get_args(Severity).index(finding.severity))


class _Flaw(NamedTuple):
    """A finding before it is known of which server."""

    severity: Severity
    subject: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Facts:
    """The answers of one server. What it did not tell is None, and no rule judges by what it does not know."""

    answers: Mapping[str, Answer]
    permissions: Call[dict[str, str]]
    durability: Durability | None

    def info(self, field: str) -> Any:
        said = self.answers["INFO"].said
        return said.get(field) if isinstance(said, Mapping) else None

    def setting(self, name: str) -> str | None:
        said = self.answers[f"CONFIG GET {name}"].said
        value = next(iter(said.values()), None) if isinstance(said, Mapping) else None
        return value.decode() if isinstance(value, bytes) else value

    def refusals(self) -> dict[str, str]:
        """Why the server refuses commands that the engine sends or that its scripts call."""
        sent = {name: self.answers[name].said for name in _SENT if name in self.answers}
        refused = {
            name: str(said)
            for name, said in sent.items()
            if isinstance(said, Exception) and not failures.is_unknown_script(said)
        }
        if not isinstance(sent["EVAL"], Exception):
            tried = self.permissions.result(sent["EVAL"])
            refused |= {name: refusal for name, refusal in tried.items() if refusal}
        return refused


def _version(facts: _Facts) -> Iterator[_Flaw]:
    version = facts.info("redis_version")
    if version is not None and tuple(map(int, re.findall(r"\d+", str(version))[:2])) < _OLDEST:
        yield _Flaw(
            "error",
            "version",
            f"the server is, or is compatible with, Redis {version}; the scripts need 6.2, which has SET with PXAT",
            "upgrade to Redis 6.2 or newer, or to any Valkey",
        )


def _commands(facts: _Facts) -> Iterator[_Flaw]:
    """The commands that are refused, together where it is for the same reason."""
    refused = facts.refusals()
    forbidden = [name for name, refusal in refused.items() if _is_forbidden(refusal) and "access" not in refusal]
    if forbidden:
        yield _Flaw(
            "error",
            "permissions",
            f"the user may not call {', '.join(forbidden)}",
            f"ACL SETUSER <user> {' '.join(f'+{name.lower()}' for name in forbidden)}",
        )
    closed = [name for name, refusal in refused.items() if _is_forbidden(refusal) and "access" in refusal]
    if closed:
        prefix = facts.permissions.keys[0].rpartition(b"probe{")[0].decode()
        yield _Flaw(
            "error",
            "permissions",
            f"the user has no access to the keys that begin with {prefix!r}: {', '.join(closed)}",
            f"ACL SETUSER <user> ~{prefix}*",
        )
    others: dict[str, list[str]] = {}
    for name, refusal in refused.items():
        if not _is_forbidden(refusal) and name not in _CONFIRMING:
            others.setdefault(refusal, []).append(name)
    for refusal, names in others.items():
        remedy = "see to what the server says: calls fail until then"
        yield _Flaw("error", "commands", f"the server refuses {', '.join(names)}: {refusal}", remedy)


def _is_forbidden(refusal: str) -> bool:
    """By the ACL; inside a script Redis 7.0 words it in another way than all others."""
    return "permission" in refusal or "The user executing the script can't" in refusal


def _role(facts: _Facts) -> Iterator[_Flaw]:
    if facts.info("role") not in (None, "master"):
        yield _Flaw(
            "error",
            "role",
            "the server is a replica: what is changed there is refused or lost",
            "connect to the primary, which a client from Sentinel or of a cluster finds by itself",
        )


def _eviction(facts: _Facts) -> Iterator[_Flaw]:
    policy, limit = facts.info("maxmemory_policy"), facts.info("maxmemory")
    if policy in (None, "noeviction"):
        return
    lost = (
        "locks, and receipts that have a receipt_ttl" if policy.startswith("volatile-") else "vouchers, locks, receipts"
    )
    when = "once maxmemory is set and reached" if limit == 0 else "when it is full"
    yield _Flaw(
        "warning" if limit == 0 else "error",
        "maxmemory-policy",
        f"under {policy} the server throws away {lost} {when}",
        "CONFIG SET maxmemory-policy noeviction: a full server then refuses what needs memory, and loses nothing",
    )


def _persistence(facts: _Facts) -> Iterator[_Flaw]:
    appending, save, fsync = facts.info("aof_enabled"), facts.setting("save"), facts.setting("appendfsync")
    remedy = "CONFIG SET appendonly yes, and in the server's configuration file"
    if appending == 0 and save == "":
        problem = "there is neither an append-only file nor a snapshot: a restart forgets all vouchers"
        yield _Flaw("error", "persistence", problem, remedy)
    elif appending == 0 and save is not None:
        problem = "there are snapshots alone: a crash forgets what changed since the last one"
        yield _Flaw("warning", "persistence", problem, remedy)
    elif appending == 1 and fsync == "no":
        problem = (
            "the append-only file is flushed when the system sees fit: a machine that dies takes half a minute along"
        )
        yield _Flaw("warning", "appendfsync", problem, "CONFIG SET appendfsync always, or everysec")
    elif appending == 1 and fsync == "everysec" and not (facts.durability and facts.durability.fsync):
        problem = "the append-only file is flushed once a second: a machine that dies takes the last two seconds along"
        remedy = "CONFIG SET appendfsync always, or have changes confirmed by Durability(fsync=True)"
        yield _Flaw("warning", "appendfsync", problem, remedy)


def _replicas(facts: _Facts) -> Iterator[_Flaw]:
    if facts.info("role") == "master" and facts.info("connected_slaves") == 0:
        problem = "there is no replica: a machine that is lost takes the vouchers along, and nothing takes its place"
        yield _Flaw("warning", "replicas", problem, "add a replica and Sentinel, or use a cluster")


def _durability(facts: _Facts) -> Iterator[_Flaw]:
    """What ``durability=`` asks for and this server cannot give."""
    if facts.durability is None:
        return
    for name, refusal in facts.refusals().items():
        if name in _CONFIRMING and not _is_forbidden(refusal):
            problem = (
                f"durability needs {name}, which the server refuses ({refusal.strip()}): every change raises NotDurable"
            )
            yield _Flaw("error", "durability", problem, "Redis has WAITAOF since 7.2; every Valkey has it")
    wanted, replicas = facts.durability.replicas, facts.info("connected_slaves")
    if replicas is not None and replicas < wanted:
        problem = f"durability asks for {wanted} replicas and there are {replicas}: every change raises NotDurable"
        yield _Flaw("error", "durability", problem, "add replicas, or ask for fewer")
    if facts.durability.fsync and facts.info("aof_enabled") == 0:
        problem = "durability asks for fsync without an append-only file: every change raises NotDurable"
        yield _Flaw("error", "durability", problem, "CONFIG SET appendonly yes")


def _freeing(facts: _Facts) -> Iterator[_Flaw]:
    if facts.setting("lazyfree-lazy-expire") == "no":
        problem = "an index of a million locks that no call takes away in time is freed while all clients wait"
        yield _Flaw("warning", "lazyfree-lazy-expire", problem, "CONFIG SET lazyfree-lazy-expire yes")


def _clock(facts: _Facts) -> Iterator[_Flaw]:
    """How far the clocks are apart at least: the server read its own at some moment between question and answer."""
    said, asked_at, answered_at = facts.answers["TIME"]
    if isinstance(said, Exception):
        return
    server = said[0] + said[1] / 1_000_000
    off = max(asked_at - server, server - answered_at)
    if off > _MAX_CLOCK_SECONDS:
        yield _Flaw(
            "warning",
            "clock",
            f"the server's clock and this machine's are {off:.1f} s apart: locks and redemptions show the server's times, "
            "and a failover to a server whose clock differs moves expiries",
            "run NTP on both",
        )


def _untold(facts: _Facts) -> Iterator[_Flaw]:
    """What no rule could judge."""
    settings = f"CONFIG GET {_SETTINGS[0]}"
    for command, question, wanted, told in (
        ("INFO", "INFO", _FIELDS, facts.info),
        ("CONFIG GET", settings, _SETTINGS, facts.setting),
    ):
        if missing := [name for name in wanted if told(name) is None]:
            said = facts.answers[question].said
            why = f": {said}" if isinstance(said, Exception) else ""
            yield _Flaw(
                "info",
                "untold",
                f"{command} does not tell {', '.join(missing)}{why}",
                f"allow the user {command}, or see where the server is managed that they are as docs/server.md says",
            )


_RULES: Final = (_version, _commands, _role, _eviction, _persistence, _replicas, _durability, _freeing, _clock, _untold)
