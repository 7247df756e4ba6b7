"""Makes one call whose replies are lost, and checks all that must be true afterwards."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from support.model import Books
from support.scripted_clients import TRANSPORTS
from support.servers import Server

from faults.history import GENERATED
from faults.proxy import Fault, Proxy
from faults.verb_calls import FIRST, ClientKind, Model, VerbCall, changes, generated_by, verb_call
from voucher_sessions import OutcomeUnknown, Validation, VoucherSessions
from voucher_sessions._core import scripts

Plan = Iterable[Fault | None]
Meanwhile = Callable[[], object] | None

# Each pair of properties occurs; the protocol alternates.
CLIENT_KINDS = [
    ClientKind(kind, retries, 2 + (at + at // 2 + at // 4) % 2, transport)
    for at, (kind, retries, transport) in enumerate(itertools.product(("sync", "async"), (10, 0), TRANSPORTS))
]
SILENT: tuple[Fault, ...] = ("late", "swallow", "delay")  # nothing but its timeout tells the client
SHORT_TIMEOUT, LONG_TIMEOUT = 0.05, 20.0  # socket_timeout in seconds
PREFIXES = (f"t{at}" for at in itertools.count())
SEED = "seed"  # the prefix under which each server has the books after FIRST


class PreparedServer(NamedTuple):
    """A server with the books after FIRST, which every trial copies, and with all scripts loaded."""

    server: Server
    client: redis.Redis
    keys: list[str]
    books: Books


def prepare(server: Server, client: redis.Redis) -> PreparedServer:
    client.flushall()
    load_scripts(client)
    model = Model()
    for each in FIRST:
        model.agrees(each, each.outcome(VoucherSessions(client, prefix=SEED)))
    return PreparedServer(server, client, [key.decode() for key in client.scan_iter()], model.books)


def load_scripts(client: redis.Redis) -> None:
    for script in scripts.ALL:
        client.script_load(script.text)


class Route(NamedTuple):
    """A kind of caller, at a server, with a proxy of its own before it."""

    client_kind: ClientKind
    prepared: PreparedServer
    proxy: Proxy


class Trial:
    """The books of one call, in a key space of their own, and the model beside them."""

    def __init__(self, call: VerbCall, route: Route) -> None:
        self.call = call
        self.client_kind, prepared, self.proxy = route
        self.prefix = next(PREFIXES)
        self.direct = VoucherSessions(prepared.client, prefix=self.prefix)
        self.model = Model(prepared.books.copy())
        with prepared.client.pipeline(transaction=False) as copies:
            for key in prepared.keys:
                copies.copy(key, self.prefix + key.removeprefix(SEED))
            copies.execute()

    def lose(self, plan: Plan, timeout: float, meanwhile: Meanwhile = None, after: Meanwhile = None) -> Any:
        """The outcome for the caller; the server has then answered all that reached it.

        ``meanwhile`` happens between a script's run and the loss of its reply, ``after`` when the caller was answered.
        """
        with self.client_kind.engine(self.proxy.port, timeout, self.prefix) as engine:
            calls = self.proxy.calls
            self.proxy.meanwhile = meanwhile
            self.proxy.follow(plan)
            outcome = self.call.outcome(engine)
            if after is not None:
                after()
            self.proxy.let_go()
            self.proxy.settle(calls + 1)
            self.proxy.follow(())
        assert self.proxy.meanwhile is None
        return outcome

    def is_unknown(self, outcome: Any) -> VerbCall:
        """The error is the right one, and tells all that its caller needs: the call as it can be repeated."""
        assert isinstance(outcome, RedisConnectionError | RedisTimeoutError), repr(outcome)
        if not changes(self.call):
            assert not isinstance(outcome, OutcomeUnknown)
            return self.call
        assert isinstance(outcome, OutcomeUnknown), repr(outcome)
        assert outcome.verb == self.call.verb
        named = self.call.named(outcome)
        op, _ = Model().expect(named)
        assert list(outcome.codes) == op.codes
        for (name, attribute), beginning in zip(GENERATED.items(), ("ssn_", "rdm_", "rbk_", "adj_"), strict=True):
            text = getattr(outcome, attribute)
            assert text == op.args.get(name)
            assert text is None or text in str(self.call) or re.fullmatch(beginning + "[A-Za-z0-9]{32}", text)
        return named

    def check(self, redemption_id: str | None) -> None:
        """The server's books of these vouchers are the model's: a script can reach no others."""
        op, _ = Model().expect(self.call)
        reads = [verb_call(verb, code) for code in op.codes for verb in ("get_voucher", "list_sessions")]
        reads += [
            verb_call("get_redemption", code, id_)
            for code in op.codes
            for id_ in {"paid", "both", redemption_id}
            if id_
        ]
        for each in reads:
            self.model.agrees(each, each.outcome(self.direct))

    def answered(self, outcome: Any) -> None:
        """The client has repeated the call by itself: its result is the first's, and so is its effect."""
        self.model.agrees(self.call, outcome)
        self.check(generated_by(self.call, outcome))

    def unanswered(self, outcome: Any, *, ran: bool) -> None:
        """The caller gets an unknown outcome, reads the state, and repeats the call unchanged."""
        named = self.is_unknown(outcome)
        if ran:
            self.model.expect(named)
        redemption_id = named.options.get("redemption_id")
        self.check(redemption_id)
        self.model.agrees(named, named.outcome(self.direct))
        self.check(redemption_id)


def answered_in_the_end(call: VerbCall, route: Route, plan: Plan, timeout: float, meanwhile: Meanwhile = None) -> None:
    trial = Trial(call, route)
    trial.answered(trial.lose(plan, timeout, meanwhile))


def never_answered(call: VerbCall, route: Route, plan: Plan, timeout: float, *, ran: bool) -> None:
    trial = Trial(call, route)
    trial.unanswered(trial.lose(plan, timeout), ran=ran)


def overtaken(call: VerbCall, route: Route, fault: Fault, timeout: float, others: Sequence[VerbCall]) -> None:
    """Others come between the call's run and its repetition; with ``late``, between its answer and its first copy."""
    trial = Trial(call, route)
    seen: list[Any] = []

    def overtake() -> None:
        seen.extend(each.outcome(trial.direct) for each in others)

    if fault == "late":
        outcome = trial.lose([fault], timeout, after=overtake)
    else:
        outcome = trial.lose([fault], timeout, meanwhile=overtake)
    if isinstance(outcome, Validation) and outcome.reason == "not_found" and verb_call("delete_voucher", "A") in others:
        trial.model.expect(call)  # it did lock, but nothing is left of that to tell
    else:
        trial.model.agrees(call, outcome)
    for each, outcome in zip(others, seen, strict=True):
        trial.model.agrees(each, outcome)
    trial.check(generated_by(call, outcome))


def everywhere(routes: Iterable[Route], run: Callable[[Route], None]) -> None:
    """At all places at a time, since what takes long is to wait."""

    def at(route: Route) -> None:
        try:
            run(route)
        except BaseException as error:
            error.add_note(f"for {route.client_kind} at {route.prepared.server.folder}")
            raise

    with ThreadPoolExecutor(len(CLIENT_KINDS)) as threads:
        list(threads.map(at, routes))
