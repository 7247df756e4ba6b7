"""A small cluster, two primaries without replicas, and a server that a sentinel names the primary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from cluster.topology import HOST, SERVICE, SLOTS, Cluster, Node, formed, free_ports, slot_of, until
from support.servers import BINARIES


class TwoPrimaries(Cluster):
    """Each serves one half of the slots. While one of them is down, the other goes on."""

    def __init__(self, binary: Path, folder: Path) -> None:
        super().__init__(binary, folder, node_timeout_ms=10_000)
        self._options.append("cluster-require-full-coverage no")

    def form(self) -> None:
        ports = free_ports(4)
        for port, bus in (ports[:2], ports[2:]):
            options = [*self._options, f"cluster-port {bus}"]
            self.nodes.append(Node(self._binary, self._folder / str(port), port, options))
        for at, node in enumerate(self.nodes):
            node.wait()
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", SLOTS * at // 2, SLOTS * (at + 1) // 2 - 1)
        self.nodes[0].ask("CLUSTER", "MEET", HOST, ports[2], ports[3])
        until(self.is_whole)

    def is_whole(self) -> bool:
        """Whether both nodes know that both are up and serve all slots, and take calls."""
        return all(
            self._serving(node) == SLOTS and b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in self.nodes
        )

    def _serving(self, node: Node) -> int:
        up = [view for view in self._views(node) if not any(flag.startswith("fail") for flag in view.flags)]
        return sum(len(view.slots) for view in up if view.link == "connected")

    def add_without_slots(self) -> Node:
        """A new server that every node knows, and that has no slot yet."""
        port, bus = free_ports(2)
        node = Node(self._binary, self._folder / str(port), port, [*self._options, f"cluster-port {bus}"])
        self.nodes.append(node)
        node.wait()
        self.nodes[0].ask("CLUSTER", "MEET", HOST, port, bus)
        until(self.is_whole)
        return node

    def code(self, at: int) -> str:
        """A code that no test has had, whose keys are on the node at this place."""
        return next(code for code in _CODES if self.nodes[at] is self.nodes[_slot(code) * 2 // SLOTS])

    def node_of(self, code: str) -> Node:
        """The node that serves the keys of a code."""
        return self.primary_of(_slot(code))

    def move_slot_of(self, code: str, between: Callable[[], object] = lambda: None) -> None:
        """Give the slot of a code to the other node; ``between`` is called when the keys were moved, and not the slot."""
        self.move_slot_to(self.nodes[1 - self.nodes.index(self.node_of(code))], code, between)

    def move_slot_to(self, target: Node, code: str, between: Callable[[], object]) -> None:
        """The same, to this node."""
        slot, source = _slot(code), self.node_of(code)
        source_id, target_id = (node.ask("CLUSTER", "MYID").decode() for node in (source, target))
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        try:
            if keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
                source.ask("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
            between()
        finally:
            for node in (target, source):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    @contextmanager
    def unserved(self, code: str) -> Iterator[None]:
        """The slot of a code has no node."""
        slot, owner = _slot(code), self.node_of(code)
        for node in self.nodes:
            node.ask("CLUSTER", "DELSLOTS", slot)
        try:
            yield
        finally:
            owner.ask("CLUSTER", "ADDSLOTS", slot)
            until(self.is_whole)

    @contextmanager
    def down(self, node: Node) -> Iterator[None]:
        """A node was killed. At the end it is back."""
        node.kill()
        try:
            yield
        finally:
            node.start()
            node.wait()
            until(self.is_whole)


_CODES = map(str, count())


def _slot(code: str) -> int:
    return slot_of(f"vs:{{{code}}}")


class OneSentinel:
    """A server without replicas, and a sentinel that names it the primary."""

    def __init__(self, binary: Path, folder: Path) -> None:
        ports = free_ports(2)
        self.server = Node(binary, folder / "server", ports[0], ['save ""'])
        options = [
            f"sentinel monitor {SERVICE} {HOST} {ports[0]} 1",
            f"sentinel down-after-milliseconds {SERVICE} 30000",
        ]
        self.sentinel = Node(binary, folder / "sentinel", ports[1], options)

    def form(self) -> None:
        for node in (self.server, self.sentinel):
            node.wait()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.sentinel.address}/{SERVICE}"

    def close(self) -> None:
        for node in (self.sentinel, self.server):
            node.close()


@contextmanager
def running_two_primaries() -> Iterator[TwoPrimaries]:
    with formed(partial(TwoPrimaries, BINARIES["valkey"])) as cluster:
        yield cluster


@contextmanager
def running_one_sentinel() -> Iterator[OneSentinel]:
    with formed(partial(OneSentinel, BINARIES["valkey"])) as sentinel:
        yield sentinel


def calls_of(node: Node, command: str) -> int:
    """How often a node has run a command."""
    stats: Any = node.admin.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


def refusals_of(node: Node, kind: str) -> int:
    """How often a node has replied with an error that begins with this word."""
    stats: Any = node.admin.info("errorstats")
    return int(stats.get(f"errorstat_{kind}", {}).get("count", 0))
