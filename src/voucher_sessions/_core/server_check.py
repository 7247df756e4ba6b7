"""``check_server``: the commands that ask a server for its version, settings and permissions, and the rules that judge it.

An engine sends each command of ``questions`` to each of its servers and passes the answers to ``findings``. If a server
refuses a command (some providers forbid CONFIG, for example), that is reported as a finding and raises no error, so
that the other rules still apply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, get_args

from voucher_sessions._core import client_errors, scripts
from voucher_sessions._core.call import Arg, Call
from voucher_sessions.errors import CorruptState
from voucher_sessions.models import Durability
from voucher_sessions.results import Finding, Severity

# SET with PXAT, which the scripts use for expiry to the millisecond, exists since 6.2, and in every Valkey.
_OLDEST: Final = (6, 2)
_MAX_CLOCK_SECONDS: Final = 1.0

# The fields that are read from INFO, and the settings that INFO does not contain.
_FIELDS: Final = ("redis_version", "role", "connected_slaves", "maxmemory", "maxmemory_policy", "aof_enabled")
_SETTINGS: Final = ("save", "appendfsync", "lazyfree-lazy-expire")

# The commands that the engine sends itself; the confirming ones only with durability=.
_CONFIRMING: Final = ("WAIT", "WAITAOF")
_SENT: Final = ("EVALSHA", "EVAL", "ECHO", *_CONFIRMING)

# Each command of the scripts with arguments for which the server checks all permissions and still writes nothing.
_TRIALS: Final = {
    "EXISTS": "EXISTS @",
    "GET": "GET @",
    "MGET": "MGET @",
    "PEXPIREAT": "PEXPIREAT @ 1",
    "PTTL": "PTTL @",
    "SCAN": "SCAN 0 COUNT 1",
    "SET": "SET @ 0 XX PXAT 1",
    "TIME": "TIME",
    "UNLINK": "UNLINK @",
    "ZADD": "ZADD @ XX 0 0",
    "ZCARD": "ZCARD @",
    "ZRANGE": "ZRANGE @ 0 0",
    "ZRANGEBYSCORE": "ZRANGEBYSCORE @ 0 0",
    "ZRANK": "ZRANK @ 0",
    "ZREM": "ZREM @ 0",
    "ZREMRANGEBYRANK": "ZREMRANGEBYRANK @ 0 0",
    "ZSCORE": "ZSCORE @ 0",
}
TRIAL_COMMANDS: Final = ",".join(_TRIALS[command] for command in scripts.COMMANDS)


class Answer(NamedTuple):
    """The reply of a server, or the error that it answered with; and the client's time before and after, in seconds."""

    reply: Any
    asked_at: float
    answered_at: float


def questions(permissions: Call[dict[str, str]], durability: Durability | None) -> dict[str, tuple[Arg, ...]]:
    """The commands to send to a server, by name. None of them changes anything.

    ``permissions`` is the call that tries every command of the scripts. It is sent with EVALSHA and with EVAL, because
    the engine needs both.
    """
    asked: dict[str, tuple[Arg, ...]] = {
        "TIME": ("TIME",),
        "INFO": ("INFO",),
        **{f"CONFIG GET {name}": ("CONFIG GET", name) for name in _SETTINGS},
        "EVALSHA": permissions.evalsha_command(),
        "EVAL": permissions.eval_command(),
        "ECHO": ("ECHO", "in step"),
    }
    if durability is not None:
        asked |= {"WAITAOF": ("WAITAOF", "0", "0", "1")} if durability.fsync else {"WAIT": ("WAIT", "0", "1")}
    return asked


def findings(
    node: str,
    answers: Mapping[str, Answer],
    permissions: Call[dict[str, str]],
    durability: Durability | None,
) -> list[Finding]:
    """The findings from the answers of one server, errors first."""
    server = _ServerAnswers(answers, permissions, durability)
    try:
        results = [Finding(node=node, **found._asdict()) for rule in _RULES for found in rule(server)]
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise CorruptState(
            "check_server: the replies do not have the form of replies of Redis: check which server the client is connected to"
        ) from error
    return sorted(results, key=lambda finding: get_args(Severity).index(finding.severity))


def partition_findings(*, always_fails: bool) -> list[Finding]:
    """The finding about a ``partition`` function whose results for sample codes cannot be compared with others."""
    if not always_fails:
        return []
    problem = "the function partition= raises an error for every sample code, so an engine with another function cannot be recognised"
    remedy = "let the function return a text for every code of 1 to 256 characters"
    return [Finding(node="", severity="warning", subject="partition", problem=problem, remedy=remedy)]


class _FindingWithoutNode(NamedTuple):
    """What a rule returns; ``findings`` adds the server."""

    severity: Severity
    subject: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _ServerAnswers:
    """The answers of one server. A value that could not be read is None; a rule that needs it reports nothing."""

    answers: Mapping[str, Answer]
    permissions: Call[dict[str, str]]
    durability: Durability | None

    def info(self, field: str) -> Any:
        fields = self.answers["INFO"].reply
        return fields.get(field) if isinstance(fields, Mapping) else None

    def setting(self, name: str) -> str | None:
        settings = self.answers[f"CONFIG GET {name}"].reply
        value = next(iter(settings.values()), None) if isinstance(settings, Mapping) else None
        return value.decode() if isinstance(value, bytes) else value

    def refusals(self) -> dict[str, str]:
        """The error of each refused command, of those that the engine sends and those that its scripts call."""
        replies = {name: self.answers[name].reply for name in _SENT if name in self.answers}
        refused = {
            name: str(reply)
            for name, reply in replies.items()
            if isinstance(reply, Exception) and not client_errors.is_unknown_script(reply)
        }
        if not isinstance(replies["EVAL"], Exception):
            tried = self.permissions.result(replies["EVAL"])
            refused |= {name: refusal for name, refusal in tried.items() if refusal}
        return refused


def _version(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    version = server.info("redis_version")
    if version is not None and tuple(map(int, re.findall(r"\d+", str(version))[:2])) < _OLDEST:
        yield _FindingWithoutNode(
            "error",
            "version",
            f"the server is, or is compatible with, Redis {version}; the scripts need 6.2, which has SET with PXAT",
            "upgrade to Redis 6.2 or newer, or to any Valkey",
        )


def _refused_commands(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    """The refused commands, one finding for each reason."""
    refused = server.refusals()
    forbidden = [name for name, refusal in refused.items() if _is_forbidden(refusal) and "access" not in refusal]
    if forbidden:
        yield _FindingWithoutNode(
            "error",
            "permissions",
            f"the user may not call {', '.join(forbidden)}",
            f"ACL SETUSER <user> {' '.join(f'+{name.lower()}' for name in forbidden)}",
        )
    without_keys = [name for name, refusal in refused.items() if _is_forbidden(refusal) and "access" in refusal]
    if without_keys:
        prefix = server.permissions.keys[0].rpartition(b"probe{")[0].decode()
        yield _FindingWithoutNode(
            "error",
            "permissions",
            f"the user has no access to the keys that begin with {prefix!r}: {', '.join(without_keys)}",
            f"ACL SETUSER <user> ~{prefix}*",
        )
    others: dict[str, list[str]] = {}
    for name, refusal in refused.items():
        if not _is_forbidden(refusal) and name not in _CONFIRMING:
            others.setdefault(refusal, []).append(name)
    for refusal, names in others.items():
        remedy = "solve the problem that the server reports: until then calls fail"
        yield _FindingWithoutNode("error", "commands", f"the server refuses {', '.join(names)}: {refusal}", remedy)


def _is_forbidden(refusal: str) -> bool:
    """Whether the ACL is the reason. Redis 7.0 uses another text than all other versions for commands in a script."""
    return "permission" in refusal or "The user executing the script can't" in refusal


def _role(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    if server.info("role") not in (None, "master"):
        yield _FindingWithoutNode(
            "error",
            "role",
            "the server is a replica: it refuses changes, or loses them",
            "connect to the primary; clients for Sentinel and for clusters find it themselves",
        )


def _eviction(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    policy, limit = server.info("maxmemory_policy"), server.info("maxmemory")
    if policy in (None, "noeviction"):
        return
    lost = (
        "locks, and receipts that have a receipt_ttl" if policy.startswith("volatile-") else "vouchers, locks, receipts"
    )
    when = "once maxmemory is set and reached" if limit == 0 else "when it is full"
    yield _FindingWithoutNode(
        "warning" if limit == 0 else "error",
        "maxmemory-policy",
        f"under {policy} the server evicts {lost} {when}",
        "CONFIG SET maxmemory-policy noeviction: a full server then refuses writes that need memory, and loses nothing",
    )


def _persistence(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    appending, save, fsync = server.info("aof_enabled"), server.setting("save"), server.setting("appendfsync")
    remedy = "CONFIG SET appendonly yes, and in the server's configuration file"
    if appending == 0 and save == "":
        problem = "there is neither an append-only file nor a snapshot: a restart loses all vouchers"
        yield _FindingWithoutNode("error", "persistence", problem, remedy)
    elif appending == 0 and save is not None:
        problem = "there are only snapshots: a crash loses all changes since the last one"
        yield _FindingWithoutNode("warning", "persistence", problem, remedy)
    elif appending == 1 and fsync == "no":
        problem = "the operating system decides when the append-only file is flushed: a machine failure loses up to 30 seconds of changes"
        yield _FindingWithoutNode("warning", "appendfsync", problem, "CONFIG SET appendfsync always, or everysec")
    elif appending == 1 and fsync == "everysec" and not (server.durability and server.durability.fsync):
        problem = "the append-only file is flushed once a second: a machine failure loses up to 2 seconds of changes"
        remedy = "CONFIG SET appendfsync always, or use Durability(fsync=True, timeout_ms=3000)"
        yield _FindingWithoutNode("warning", "appendfsync", problem, remedy)


def _replicas(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    if server.info("role") == "master" and server.info("connected_slaves") == 0:
        problem = "there is no replica: if the machine is lost, so are the vouchers, and no other server can replace it"
        yield _FindingWithoutNode("warning", "replicas", problem, "add a replica and Sentinel, or use a cluster")


def _durability(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    """What ``durability=`` requires and this server does not have."""
    if server.durability is None:
        return
    for name, refusal in server.refusals().items():
        if name in _CONFIRMING and not _is_forbidden(refusal):
            problem = (
                f"durability needs {name}, which the server refuses ({refusal.strip()}): every change raises NotDurable"
            )
            yield _FindingWithoutNode(
                "error", "durability", problem, "allow the command; for WAITAOF use Redis 7.2 or newer, or any Valkey"
            )
    wanted, replicas = server.durability.replicas, server.info("connected_slaves")
    if replicas is not None and replicas < wanted:
        problem = f"durability asks for {wanted} replicas and there are {replicas}: every change raises NotDurable"
        yield _FindingWithoutNode("error", "durability", problem, "add replicas, or ask for fewer")
    if server.durability.fsync and server.info("aof_enabled") == 0:
        problem = "durability asks for fsync without an append-only file: every change raises NotDurable"
        yield _FindingWithoutNode("error", "durability", problem, "CONFIG SET appendonly yes")


def _blocking_expiry(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    if server.setting("lazyfree-lazy-expire") == "no":
        problem = "when a very large index of locks expires, the server blocks all clients while it frees the memory"
        yield _FindingWithoutNode("warning", "lazyfree-lazy-expire", problem, "CONFIG SET lazyfree-lazy-expire yes")


def _clock(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    """The least possible difference of the clocks: the server read its clock at some time between question and answer."""
    reply, asked_at, answered_at = server.answers["TIME"]
    if isinstance(reply, Exception):
        return
    server_time = reply[0] + reply[1] / 1_000_000
    difference = max(asked_at - server_time, server_time - answered_at)
    if difference > _MAX_CLOCK_SECONDS:
        yield _FindingWithoutNode(
            "warning",
            "clock",
            f"the server's clock and this machine's are {difference:.1f} s apart: locks and redemptions have the server's "
            "times, and a failover to a server with another clock changes when locks expire",
            "run NTP on both",
        )


def _unreadable_settings(server: _ServerAnswers) -> Iterator[_FindingWithoutNode]:
    """The settings that could not be read, so that no rule could judge them."""
    for command, question, names, value in (
        ("INFO", "INFO", _FIELDS, server.info),
        ("CONFIG GET", f"CONFIG GET {_SETTINGS[0]}", _SETTINGS, server.setting),
    ):
        if missing := [name for name in names if value(name) is None]:
            reply = server.answers[question].reply
            why = f": {reply}" if isinstance(reply, Exception) else ""
            yield _FindingWithoutNode(
                "info",
                "unreadable",
                f"{command} does not return {', '.join(missing)}{why}",
                f"allow the user {command}, or check in the settings of the server's provider that they are as docs/server.md says",
            )


_RULES: Final = (
    _version,
    _refused_commands,
    _role,
    _eviction,
    _persistence,
    _replicas,
    _durability,
    _blocking_expiry,
    _clock,
    _unreadable_settings,
)
