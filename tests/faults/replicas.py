"""A primary and two replicas, connected by proxies that can be cut; the test promotes a replica itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from support.servers import Server, running
from support.waiting import until

from faults.proxy import Proxy


class ReplicatedServers:
    """The replicas follow the primary over ``links``; clients can use ``client_link``. All can be cut."""

    def __init__(self, primary: Server, replicas: list[Server], links: list[Proxy], client_link: Proxy) -> None:
        self.primary, self.replicas, self.links, self.client_link = primary, replicas, links, client_link
        self._followed = ExitStack()

    def cut_off(self) -> None:
        """The primary, from its replicas and from clients that use ``client_link``. No connection is closed."""
        for each in (*self.links, self.client_link):
            each.cut()

    def promote(self, *candidates: Server) -> Server:
        """The most advanced of the replicas, or of these; the others of them follow it."""
        those = list(candidates or self.replicas)
        new = max(those, key=lambda each: int(replication(each)["slave_repl_offset"]))
        with new.client() as admin:
            admin.replicaof("NO", "ONE")
        for each in those:
            if each is not new:
                self.follow(each, new)
        return new

    def follow(self, server: Server, primary: Server) -> None:
        """Make a server a replica of another one, and wait until it is in step."""
        link = self._followed.enter_context(Proxy(primary.socket))
        with server.client() as admin:
            admin.replicaof("127.0.0.1", str(link.port))
        until(lambda: replication(server)["master_link_status"] == "up")

    def close(self) -> None:
        self._followed.close()


def replication(server: Server) -> dict[str, Any]:
    with server.client() as client:
        found: dict[str, Any] = client.info("replication")
        return found


@contextmanager
def replicated_servers(name: str, **options: str) -> Iterator[ReplicatedServers]:
    """``options`` are the primary's."""
    with ExitStack() as stack:
        primary = stack.enter_context(running(name, repl_diskless_sync_delay="0", **options))
        links = [stack.enter_context(Proxy(primary.socket)) for _ in range(2)]
        client_link = stack.enter_context(Proxy(primary.socket))
        follow = [{"replicaof": f"127.0.0.1 {link.port}", "repl_diskless_sync_delay": "0"} for link in links]
        replicas = [stack.enter_context(running(name, **each)) for each in follow]
        with primary.client() as admin:
            until(lambda: bool(admin.publish("a write", "") == 0 and admin.wait(2, 500) == 2))
        servers = ReplicatedServers(primary, replicas, links, client_link)
        stack.callback(servers.close)
        yield servers
