"""``engine.pipeline()`` returns the results of the single calls, in their order, with each error at its place."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import redis
import redis.exceptions
from conftest import Backend
from support import untyped

from behaviour.test_semantics import plant_expired_locks
from voucher_sessions import (
    AsyncVoucherSessions,
    CorruptState,
    Durability,
    InvalidRequest,
    NotDurable,
    OutcomeUnknown,
    QuantityExceeded,
    Redeemable,
    Redemption,
    ServerRefused,
    ServerUnavailable,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
    VoucherState,
    pipelines,
)
from voucher_sessions._core import scripts
from voucher_sessions._transport import clients

LOCK = {"type": "LOCK", "key": "cart"}


def call_every_verb(target: Any) -> list[Any]:
    """Every verb, one after the other."""
    stack = [Redeemable(code="GIFT", credits=5), Redeemable(code="CARD", points=2)]
    return [
        target.put_voucher(Voucher(code="GIFT", quantity=9, credits=100)),
        target.put_voucher(Voucher(code="CARD", points=50)),
        target.adjust("CARD", points=-10, adjustment_id="correction"),
        target.validate("GIFT", credits=500),
        target.validate("GIFT", credits=30, session=LOCK),
        target.get_session("GIFT", "cart"),
        target.extend("GIFT", "cart", ttl=2, ttl_unit="DAYS"),
        target.list_sessions("GIFT", limit=5),
        target.redeem("GIFT", session="cart", redemption_id="order"),
        target.redeem("GIFT", session="cart", redemption_id="order"),
        target.get_redemption("GIFT", "order"),
        target.rollback("GIFT", "order", credits=10, rollback_id="refund"),
        target.rollback("GIFT", "order"),
        target.validate_stack(stack, session=LOCK),
        target.release("CARD", "cart"),
        target.validate_stack(stack, session=LOCK),
        target.extend_stack(["GIFT", "CARD"], "cart"),
        target.redeem_stack(stack, session="cart", redemption_id="both"),
        target.rollback_stack(["GIFT", "CARD"], "both"),
        target.release_stack(["GIFT", "CARD"], "cart"),
        target.get_voucher("GIFT"),
        target.delete_voucher("CARD"),
    ]


def comparable(result: Any) -> Any:
    """A result without the moments at which it came about."""
    if isinstance(result, list):
        return [comparable(each) for each in result]
    if isinstance(result, bool):
        return result
    dumped = result.model_dump(mode="json")
    return _timeless(dumped)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in ("expires_at", "remaining_ms", "redeemed_at")}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def test_a_pipeline_returns_the_same_results_as_single_calls(
    engine: VoucherSessions, backend: Backend, execute: Callable[..., list[Any]]
) -> None:
    one_by_one = comparable(call_every_verb(engine))
    backend.admin.flushall()
    backend.admin.script_flush()
    pipe = engine.pipeline()
    assert call_every_verb(pipe) == [pipe] * 22
    assert len(pipe) == 22
    assert comparable(execute(pipe)) == one_by_one
    assert len(pipe) == 0
    assert execute(pipe) == []


def test_every_verb_can_be_queued_with_the_same_parameters() -> None:
    apart = {"client", "close", "from_url", "pipeline", "check_server", "ping", "audit", "repair", "iter_sessions"}
    verbs = {name for name in vars(VoucherSessions) if not name.startswith("_")} - apart
    assert len(verbs) == 17
    for verb in verbs:
        queued, called = getattr(pipelines.Pipeline, verb), getattr(VoucherSessions, verb)
        assert inspect.signature(queued).parameters == inspect.signature(called).parameters


def test_a_refused_call_is_an_error_at_its_place_in_the_results(
    engine: VoucherSessions, execute: Callable[..., list[Any]]
) -> None:
    engine.put_voucher(Voucher(code="ONCE", quantity=1))

    def queued() -> Any:
        return engine.pipeline().redeem("ONCE").redeem("ONCE").get_voucher("NOBODY").get_voucher("ONCE")

    results = execute(queued(), raise_on_error=False)
    assert [type(each) for each in results] == [Redemption, QuantityExceeded, VoucherNotFound, VoucherState]
    engine.put_voucher(Voucher(code="ONCE", quantity=2))
    with pytest.raises(QuantityExceeded):
        execute(queued())
    assert engine.get_voucher("ONCE").quantity.used == 2, "all calls have run before the first error is raised"


def test_bad_input_raises_at_once_and_queues_nothing(engine: VoucherSessions) -> None:
    pipe = engine.pipeline()
    with pytest.raises(InvalidRequest, match="code"):
        pipe.redeem("")
    assert len(pipe) == 0


def test_leaving_the_with_block_discards_calls_that_were_not_executed(
    engine: VoucherSessions, backend: Backend, loop: asyncio.AbstractEventLoop
) -> None:
    pipe: Any = engine.pipeline()
    if hasattr(pipe, "__aenter__"):

        async def leave() -> None:
            async with pipe as entered:
                entered.put_voucher(Voucher(code="A"))

        loop.run_until_complete(leave())
    else:
        with pipe as entered:
            entered.put_voucher(Voucher(code="A"))
    assert len(pipe) == 0
    assert backend.keys() == {}


def test_a_call_that_must_be_repeated_is_repeated(
    engine: VoucherSessions, backend: Backend, execute: Callable[..., list[Any]]
) -> None:
    engine.put_voucher(Voucher(code="HOT", quantity=1202))
    engine.validate("HOT", session={"type": "LOCK", "key": "stays"})
    plant_expired_locks(backend, "HOT", 1201)
    valid, state = execute(engine.pipeline().validate("HOT").get_voucher("HOT"))
    assert (valid.valid, valid.available.quantity, state.quantity.locked) == (True, 1201, 1)


def reply_to(words: tuple[Any, ...], answer: Any) -> Any:
    """The answer as the reply to a command: a script's begins with the call id, and ECHO repeats its argument."""
    if answer is STATE and words[1] in (scripts.PUT_VOUCHER.text, scripts.PUT_VOUCHER.sha):
        answer = PUT
    if words[0] == "ECHO":
        return words[1].encode()
    if words[0] in ("EVAL", "EVALSHA") and isinstance(answer, list):
        return [words[3 + int(words[2])].encode(), *answer]
    return answer[0] if isinstance(answer, tuple) else answer


class Batch:
    """A pipeline of a client, whose replies, or whose failure, are given."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.sent: list[str] = []
        self.commands: list[tuple[Any, ...]] = []

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def execute_command(self, *words: Any, **options: Any) -> None:
        self.sent.append(words[0])
        self.commands.append(words)

    def execute(self, *, raise_on_error: bool) -> Any:
        assert not raise_on_error
        if isinstance(self.answers[0], redis.RedisError):
            raise self.answers[0]
        commands, self.commands = self.commands, []
        answers = [*self.answers, None] if commands[-1][0] == "ECHO" else self.answers
        return [reply_to(words, answer) for words, answer in zip(commands, answers, strict=True)]


class AsyncBatch(Batch):
    async def __aenter__(self) -> AsyncBatch:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def execute(self, *, raise_on_error: bool) -> Any:
        return super().execute(raise_on_error=raise_on_error)


class Stub:
    """A client with one batch; what is sent by itself is answered with the state of a voucher."""

    def __init__(self, *answers: Any) -> None:
        self.batch = Batch(list(answers))

    def pipeline(self, *, transaction: bool) -> Batch:
        assert not transaction
        return self.batch

    def execute_command(self, *words: Any, **options: Any) -> Any:
        return reply_to(words, STATE)


class AsyncStub(Stub):
    def __init__(self, *answers: Any) -> None:
        self.batch = AsyncBatch(list(answers))

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        return reply_to(words, STATE)


STATE = [b"state", -1, 0, 0, 0, 0, 0, 0, 0, 0]
PUT = [b"put", 1, *STATE[1:]]


def on_both(queue: Callable[[Any], object], *answers: Any, **options: Any) -> list[list[Any]]:
    """The results, failures in their places, of the sync and the asyncio engine."""
    sync, waiting = (
        untyped.VoucherSessions(Stub(*answers), **options),
        untyped.AsyncVoucherSessions(AsyncStub(*answers), **options),
    )
    pipe, async_pipe = sync.pipeline(), waiting.pipeline()
    queue(pipe)
    queue(async_pipe)
    return [pipe.execute(raise_on_error=False), asyncio.run(async_pipe.execute(raise_on_error=False))]


def queue_two(pipe: Any) -> None:
    pipe.put_voucher(Voucher(code="A")).get_voucher("A")


def test_a_lost_connection_makes_every_change_an_unknown_outcome() -> None:
    for change, reading in on_both(queue_two, redis.exceptions.ConnectionError("gone")):
        assert isinstance(change, OutcomeUnknown)
        assert change.codes == ("A",)
        assert type(reading) is ServerUnavailable


def test_each_reply_of_a_batch_is_read_by_itself() -> None:
    refused = (redis.exceptions.OutOfMemoryError("full"),)
    for first, second in on_both(queue_two, refused, [b"nonsense"]):
        assert isinstance(first, ServerRefused)
        assert isinstance(second, CorruptState)


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.NoScriptError("NOSCRIPT"),
        redis.exceptions.MovedError("7 127.0.0.1:7000"),
        redis.exceptions.AskError("7 127.0.0.1:7000"),
        redis.exceptions.TryAgainError("TRYAGAIN"),
    ],
    ids=repr,
)
def test_a_call_that_did_not_run_is_sent_again_alone(error: Exception) -> None:
    for results in on_both(queue_two, (error,), [b"again"]):
        assert [type(each) for each in results] == [VoucherState, VoucherState]


def test_a_call_that_is_sent_again_alone_can_fail() -> None:
    for (result,) in on_both(lambda pipe: pipe.redeem("A", session="cart"), [b"again"]):
        assert isinstance(result, CorruptState), "the stub answers with a voucher's state"


def test_durability_is_confirmed_once_for_a_batch() -> None:
    durability = Durability(replicas=1)
    for first, second in on_both(queue_two, STATE, STATE, True, 1, durability=durability):
        assert isinstance(first, VoucherState)
        assert isinstance(second, VoucherState)
    for first, second in on_both(queue_two, STATE, STATE, True, 0, durability=durability):
        assert isinstance(first, NotDurable)
        assert isinstance(first.result, VoucherState)
        assert isinstance(second, VoucherState), "reading waits for nobody"
    client = Stub(STATE, STATE, True, 1)
    pipe = untyped.VoucherSessions(client, durability=durability).pipeline()
    queue_two(pipe)
    pipe.execute()
    assert client.batch.sent == ["EVAL", "EVAL", "SET", "WAIT", "ECHO"]


def test_each_script_is_sent_once() -> None:
    client = Stub(STATE, STATE, STATE)
    pipe = untyped.VoucherSessions(client).pipeline()
    pipe.get_voucher("A").get_voucher("B").get_voucher("C").execute()
    assert client.batch.sent == ["EVAL", "EVALSHA", "EVALSHA", "ECHO"]


class Node:
    """One of a cluster's, in sync and asyncio."""

    name = "127.0.0.1:7000"

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def pipeline(self, *, transaction: bool) -> Batch:
        assert not transaction
        return self.batch

    async def execute_pipeline(self, commands: list[Any]) -> None:
        for command, answer in zip(commands, [*self.batch.answers, None], strict=False):
            if isinstance(answer, redis.exceptions.ConnectionError):
                raise answer
            command.result = reply_to(command.args, answer)


class StubCluster:
    """A cluster's client, as far as batches use it. The first call asks for the partition."""

    def __init__(self, node: Node | None) -> None:
        self.node = node
        self.nodes_manager = self
        self.looked_again = 0

    def get_node_from_key(self, key: bytes) -> Node:
        if self.node is None:
            raise redis.exceptions.SlotNotCoveredError("Slot 5 is not covered")
        return self.node

    def get_redis_connection(self, node: Node) -> Node:
        return node

    def get_nodes(self) -> list[Any]:
        return []

    def initialize(self) -> Any:
        self.looked_again += 1

    def execute_command(self, *words: Any, **options: Any) -> Any:
        if scripts.AGREE_ON_PARTITION.sha in words:
            return reply_to(words, [b"partition", words[-1].encode()])
        return reply_to(words, STATE)


class AsyncStubCluster(StubCluster):
    async def initialize(self) -> None:
        self.looked_again += 1

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        return super().execute_command(*words, **options)


@pytest.fixture
def on_clusters(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """What the two engines make of a batch on a cluster, and how often they looked who serves what."""

    def run(queue: Callable[[Any], object], *answers: Any, **options: Any) -> list[Any]:
        monkeypatch.setattr(clients, "is_cluster", lambda client: True)
        monkeypatch.setattr(clients, "retry_period_seconds", lambda client: 0)
        sync: Any = StubCluster(Node(Batch(list(answers))) if answers else None)
        waiting: Any = AsyncStubCluster(Node(AsyncBatch(list(answers))) if answers else None)
        pipe = VoucherSessions(sync, **options).pipeline()
        async_pipe = AsyncVoucherSessions(waiting, **options).pipeline()
        queue(pipe)
        queue(async_pipe)
        results = pipe.execute(raise_on_error=False), asyncio.run(async_pipe.execute(raise_on_error=False))
        return [(results[0], sync.looked_again), (results[1], waiting.looked_again)]

    return run


def test_on_a_cluster_a_moved_slot_is_found(on_clusters: Callable[..., list[Any]]) -> None:
    moved = (redis.exceptions.MovedError("7 127.0.0.1:7000"),)
    for results, looked_again in on_clusters(queue_two, STATE, moved):
        assert [type(each) for each in results] == [VoucherState, VoucherState]
        assert looked_again >= 1


def test_on_a_cluster_the_successor_of_a_lost_node_is_found(on_clusters: Callable[..., list[Any]]) -> None:
    for (change, reading), looked_again in on_clusters(queue_two, redis.exceptions.ConnectionError("gone")):
        assert isinstance(change, OutcomeUnknown)
        assert type(reading) is ServerUnavailable
        assert looked_again >= 1


def test_on_a_cluster_only_calls_of_an_unserved_slot_wait(on_clusters: Callable[..., list[Any]]) -> None:
    for results, _ in on_clusters(queue_two):
        assert [type(each) for each in results] == [VoucherState, VoucherState]


def test_on_a_cluster_each_change_is_confirmed_by_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "is_cluster", lambda client: True)
    monkeypatch.setattr(clients, "retry_period_seconds", lambda client: 0)
    durability = Durability(replicas=1)
    for replicas in (0, 1):
        sync: Any = StubCluster(Node(Batch([STATE, True, replicas])))
        waiting: Any = AsyncStubCluster(Node(AsyncBatch([STATE, True, replicas])))
        engine, async_engine = (
            VoucherSessions(sync, durability=durability),
            AsyncVoucherSessions(waiting, durability=durability),
        )
        puts: list[Callable[[], Any]] = [
            partial(engine.put_voucher, Voucher(code="A")),
            partial(run, async_engine.put_voucher, Voucher(code="A")),
        ]
        for put in puts:
            if replicas:
                assert isinstance(put(), VoucherState)
            else:
                with pytest.raises(NotDurable):
                    put()


def run(verb: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
    """The result of a verb of an asyncio engine."""
    return asyncio.run(verb(*arguments))


def test_a_call_shows_neither_keys_nor_arguments() -> None:
    pipe = untyped.VoucherSessions(Stub()).pipeline().redeem("A", session="secret-key")
    assert repr(pipe._queued) == "[<redeem of 'A'>]"
