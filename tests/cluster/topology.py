"""Clusters of 3 + 3 servers and Sentinel set-ups of 1 + 2 servers and 3 sentinels, on loopback, ended with the test."""

from __future__ import annotations

import random
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import redis
import redis.asyncio
import redis.exceptions
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry
from support.servers import BINARIES

from voucher_sessions._transport.keeper import started

HOST = "127.0.0.1"
SHARDS = 3
SLOTS = 16384
FORMING_SECONDS = 60  # on a busy machine it took 11 s
SERVICE = "till"
PASSWORD = "of-the-servers"
SENTINEL_PASSWORD = "of-the-sentinels"

T = TypeVar("T")


def until(condition: Callable[[], T | None], seconds: float = 20) -> T:
    """What the condition says as soon as it says something; a server that cannot be reached says nothing."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            if said := condition():
                return said
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {condition}")
        time.sleep(0.01)


def free_ports(number: int) -> list[int]:
    """Below the ports that the kernel gives to outgoing connections, so that a server can come back to its own."""
    ports: list[int] = []
    with ExitStack() as bound:
        while len(ports) < number:
            port = random.randrange(15_000, 32_000)
            with suppress(OSError):
                bound.enter_context(socket.socket()).bind((HOST, port))
                ports.append(port)
    return ports


class Node:
    """One process: a server, or a sentinel."""

    def __init__(self, binary: Path, folder: Path, port: int, options: list[str], password: str | None = None) -> None:
        folder.mkdir()
        self.port = port
        self.password = password
        self._log = folder / "log"
        conf = folder / "conf"
        common = [f"port {port}", f"bind {HOST}", f"dir {folder}", f"logfile {self._log}"]
        secret = [f"requirepass {password}"] if password else []
        conf.write_text("\n".join([*common, *secret, *options, ""]))
        kind = ["--sentinel"] if any(option.startswith("sentinel ") for option in options) else []
        self._command = [str(binary), str(conf), *kind]
        self.admin = redis.Redis(host=HOST, port=port, password=password, retry=Retry(NoBackoff(), 0), socket_timeout=5)
        self.start()

    def start(self) -> None:
        self.process = started(self._command)

    def wait(self) -> None:
        """Until it answers."""
        try:
            until(self._ping)
        except Exception as error:
            raise RuntimeError(f"no server: {self._log.read_text()[-1000:]}") from error

    def _ping(self) -> bool:
        if self.process.poll() is not None:
            raise ChildProcessError(f"it ended with status {self.process.returncode}")
        return bool(self.admin.info("server")["process_id"] == self.process.pid)  # and not another's, at this port

    def ask(self, *words: object) -> Any:
        return self.admin.execute_command(*words)

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.admin.close()
        self.kill()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


class NodesLine:
    """One line of CLUSTER NODES."""

    def __init__(self, line: str) -> None:
        self.id, address, flags, self.primary_id, _, _, _, self.link, *slots = line.split()
        self.port = int(address.partition("@")[0].rpartition(":")[2])
        self.flags = set(flags.split(","))
        ranges = [slot.split("-") for slot in slots if not slot.startswith("[")]
        self.slots = {slot for ends in ranges for slot in range(int(ends[0]), int(ends[-1]) + 1)}


class Cluster:
    """Three primaries and a replica of each; ``url`` is for ``from_url``."""

    def __init__(self, binary: Path, folder: Path, node_timeout_ms: int) -> None:
        self.nodes: list[Node] = []
        self._binary = binary
        self._folder = folder
        self._options = [
            "cluster-enabled yes",
            f"cluster-node-timeout {node_timeout_ms}",
            "repl-diskless-sync-delay 0",
            'save ""',
        ]

    def form(self) -> None:
        ports = free_ports(4 * SHARDS)
        for port, bus in zip(ports[::2], ports[1::2], strict=True):
            options = [*self._options, f"cluster-port {bus}"]
            self.nodes.append(Node(self._binary, self._folder / str(port), port, options))
        for node in self.nodes:
            node.wait()
        first = self.nodes[0]
        for at, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            if at < SHARDS:
                node.ask("CLUSTER", "ADDSLOTSRANGE", SLOTS * at // SHARDS, SLOTS * (at + 1) // SHARDS - 1)
            if node is not first:
                bus = ports[2 * at + 1]
                first.ask("CLUSTER", "MEET", HOST, node.port, bus)
        until(lambda: all(len(self._views(node)) == 2 * SHARDS for node in self.nodes), FORMING_SECONDS)
        for primary, replica in zip(self.nodes[:SHARDS], self.nodes[SHARDS:], strict=True):
            of = primary.ask("CLUSTER", "MYID")
            until(partial(self._replicates, replica, of), FORMING_SECONDS)
        until(self.is_whole, FORMING_SECONDS)

    @staticmethod
    def _replicates(replica: Node, of: bytes) -> bool:
        """A primary must have been heard of by its replica first."""
        try:
            return bool(replica.ask("CLUSTER", "REPLICATE", of))
        except redis.exceptions.ResponseError:
            return False

    @staticmethod
    def _views(node: Node) -> list[NodesLine]:
        text: bytes = node.ask("CLUSTER", "NODES")
        return [NodesLine(line) for line in text.decode().splitlines()]

    def is_whole(self) -> bool:
        """Whether all nodes agree that all slots are served, and every primary has its replica in step."""
        return all(self._is_well(node) for node in self.nodes)

    def _is_well(self, node: Node) -> bool:
        views = self._views(node)
        serving = [view for view in views if "master" in view.flags and view.slots]
        followed = {view.primary_id for view in views if "slave" in view.flags}
        replication = node.admin.info("replication")
        return (
            b"cluster_state:ok" in node.ask("CLUSTER", "INFO")
            and len(views) == 2 * SHARDS
            and not any(flag.startswith(("fail", "handshake", "noaddr")) for view in views for flag in view.flags)
            and followed == {view.id for view in serving}
            and (replication["role"] == "master" or replication["master_link_status"] == "up")
        )

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.address for node in self.nodes)

    def admin(self, partition: str | None = None) -> Admin:
        """A client that looks behind the engines' backs; ``partition`` is the one into which they put all codes."""
        node = next(node for node in self.nodes if node.process.poll() is None)
        return Admin(host=HOST, port=node.port, partition=partition)

    def primary_of(self, slot: int) -> Node:
        """By the word of the nodes themselves."""
        return next(node for node in self.nodes if node.process.poll() is None and slot in self._own(node).slots)

    def replica_of(self, primary: Node) -> Node:
        of = self._own(primary).id
        return next(node for node in self.nodes if self._own(node).primary_id == of)

    def _own(self, node: Node) -> NodesLine:
        return next(view for view in self._views(node) if "myself" in view.flags)

    def _primaries(self) -> dict[str, Node]:
        """Of the slots, by id, when all nodes run."""
        own = {self._own(node).id: node for node in self.nodes}
        return {view.id: own[view.id] for view in self._views(self.nodes[0]) if view.slots}

    def move(self, slot: int, *, open_for: float = 0) -> int:
        """Give a slot to another primary, key by key, as redis-cli does; how many keys it had.

        ``open_for`` seconds it stays open with half of its keys moved.
        """
        source = self.primary_of(slot)
        target = random.choice([node for node in self._primaries().values() if node is not source])
        self.open_slot(slot, target)
        moved, half = 0, int(source.ask("CLUSTER", "COUNTKEYSINSLOT", slot)) // 2
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.migrate(keys, source, target)
            if moved <= half < moved + len(keys):
                time.sleep(open_for)
            moved += len(keys)
        self.close_slot(slot, source, target)
        return moved

    def open_slot(self, slot: int, target: Node) -> None:
        """Begin to give a slot to another server: from now on its keys can be moved, one by one."""
        source = self.primary_of(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self._own(source).id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self._own(target).id)

    @staticmethod
    def migrate(keys: Sequence[bytes], source: Node, target: Node) -> None:
        source.ask("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)

    def close_slot(self, slot: int, source: Node, target: Node) -> None:
        """Give an open slot to the target for good, with the keys that are left."""
        if keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            self.migrate(keys, source, target)
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", self._own(target).id)

    def move_at_once(self, slot: int) -> int:
        """Give a slot to another primary as one, which Valkey can since 9.0; how many keys it had."""
        source = self.primary_of(slot)
        source_id = self._own(source).id
        target_id = random.choice([id for id in self._primaries() if id != source_id])
        keys = int(source.ask("CLUSTER", "COUNTKEYSINSLOT", slot))
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target_id)
        until(lambda: slot not in self._own(source).slots)
        return keys

    def close(self) -> None:
        for node in self.nodes:
            node.close()


class Admin(redis.RedisCluster):
    """A cluster's client that behaves like the client of one server, as far as the tests need it.

    It names keys as an engine without a partition would, and leaves out what engines remember of their partition.
    """

    def __init__(self, *, partition: str | None, **options: Any) -> None:
        self._hashed = f"{{{partition}}}" if partition else ""
        super().__init__(**options)

    def execute_command(self, *words: Any, **options: Any) -> Any:
        return redis.RedisCluster.execute_command(self, *map(self._partitioned, words), **options)

    def _partitioned(self, word: Any) -> Any:
        if isinstance(word, bytes):
            return self._partitioned(word.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        if isinstance(word, str) and re.match(r"vs:\{[^}]*\}(?!\{)", word):
            return word.replace("vs:", "vs:" + self._hashed, 1)
        return word

    def scan_iter(self, *words: Any, **options: Any) -> Iterator[bytes]:
        for key in super().scan_iter(*words, **options):
            if not key.endswith(b":partition"):
                yield key.replace(b"vs:" + self._hashed.encode(), b"vs:", 1)

    def keys(self, pattern: Any = "*", **options: Any) -> Any:
        return list(self.scan_iter(match=pattern, count=1000))

    def time(self, **options: Any) -> Any:
        node: Any = self.nodes_manager.default_node
        return node.redis_connection.time()


def slot_of(key: str | bytes) -> int:
    return key_slot(key.encode() if isinstance(key, str) else key)


class Sentinels:
    """A primary, two replicas and three sentinels, a password on each of the two layers."""

    def __init__(self, binary: Path, folder: Path, down_after_ms: int) -> None:
        self._binary = binary
        self._folder = folder
        self._down_after_ms = down_after_ms
        self.servers: list[Node] = []
        self.sentinels: list[Node] = []

    def form(self) -> None:
        ports = free_ports(6)
        first = ports[0]
        common = [f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0", 'save ""']
        for port in ports[:3]:
            options = common if port == first else [*common, f"replicaof {HOST} {first}"]
            self.servers.append(Node(self._binary, self._folder / str(port), port, options, PASSWORD))
        for server in self.servers:
            server.wait()
        until(lambda: self.servers[0].admin.info("replication")["connected_slaves"] == 2, FORMING_SECONDS)
        for port in ports[3:]:
            options = [
                f"sentinel monitor {SERVICE} {HOST} {first} 2",
                f"sentinel auth-pass {SERVICE} {PASSWORD}",
                f"sentinel down-after-milliseconds {SERVICE} {self._down_after_ms}",
                f"sentinel failover-timeout {SERVICE} 5000",
                f"sentinel sentinel-pass {SENTINEL_PASSWORD}",
            ]
            self.sentinels.append(Node(self._binary, self._folder / str(port), port, options, SENTINEL_PASSWORD))
        for sentinel in self.sentinels:
            sentinel.wait()
        until(self.is_whole, FORMING_SECONDS)

    def is_whole(self) -> bool:
        """Whether all sentinels know of each other, of a primary that is up and of its two replicas in step."""
        if not all(self._is_well(sentinel) for sentinel in self.sentinels):
            return False
        links = [server.admin.info("replication").get("master_link_status") for server in self.servers]
        return sorted(links, key=str) == [None, "up", "up"]

    @staticmethod
    def _is_well(sentinel: Node) -> bool:
        states: Any = sentinel.admin.sentinel_masters()
        state, replicas = states[SERVICE], sentinel.admin.sentinel_slaves(SERVICE)
        up = [replica for replica in replicas if replica["flags"] == "slave"]
        return bool(state["flags"] == "master" and state["num-other-sentinels"] == 2 and len(up) == 2)

    @property
    def url(self) -> str:
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}?sentinel_password={SENTINEL_PASSWORD}"

    def primary(self, sentinel: Node | None = None) -> Node:
        """By the word of a sentinel."""
        asked = (sentinel or self.sentinels[0]).admin
        address: Any = asked.sentinel_get_master_addr_by_name(SERVICE)
        return next(server for server in self.servers if server.port == address[1])

    def admin(self, sentinel: Node | None = None) -> redis.Redis:
        """A client of the primary that looks behind the engines' backs."""
        return redis.Redis(host=HOST, port=self.primary(sentinel).port, password=PASSWORD)

    def close(self) -> None:
        for node in (*self.sentinels, *self.servers):
            node.close()


@contextmanager
def running_cluster(name: str, node_timeout_ms: int = 1000) -> Iterator[Cluster]:
    """A cluster of its own, formed in seconds."""
    with formed(lambda folder: Cluster(BINARIES[name], folder, node_timeout_ms)) as cluster:
        yield cluster


@contextmanager
def running_sentinels(name: str, down_after_ms: int = 1000) -> Iterator[Sentinels]:
    """A Sentinel set-up of its own."""
    with formed(lambda folder: Sentinels(BINARIES[name], folder, down_after_ms)) as sentinels:
        yield sentinels


class Formed(Protocol):
    """What consists of several processes."""

    def form(self) -> None: ...

    def close(self) -> None: ...


Topology = TypeVar("Topology", bound=Formed)


@contextmanager
def formed(make: Callable[[Path], Topology]) -> Iterator[Topology]:
    """Tried three times, should somebody else take a port that was free."""
    with ExitStack() as running:
        for tries_left in (2, 1, 0):
            with ExitStack() as undo:
                topology = make(Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="vs-"))))
                undo.callback(topology.close)
                try:
                    topology.form()
                except RuntimeError:
                    if tries_left:
                        continue
                    raise
                running.push(undo.pop_all())
                break
        yield topology
