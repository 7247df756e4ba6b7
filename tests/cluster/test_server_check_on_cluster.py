"""``check_server`` on a cluster, where it checks every primary, and through Sentinel."""

from __future__ import annotations

from conftest import Backend

from cluster.topology import Cluster
from voucher_sessions import VoucherSessions


def test_every_primary_is_asked(engine: VoucherSessions, backend: Backend, cluster: Cluster) -> None:
    """The servers of these tests keep nothing on disk, and each has its replica."""
    findings = [(each.node, each.subject) for each in engine.check_server()]
    nodes = [""]
    if backend.name == "cluster":
        nodes = sorted(node.address for node in cluster.nodes if node.admin.info("replication")["role"] == "master")
        assert len(nodes) == 3
    assert findings == [(node, "persistence") for node in nodes]
    assert backend.keys() == {}


def test_a_permission_missing_on_one_primary_is_reported_for_that_primary(cluster: Cluster) -> None:
    node = cluster.primary_of(9000)
    node.ask("ACL", "SETUSER", "default", "-zadd")
    try:
        with VoucherSessions.from_url(cluster.url) as engine:
            findings = [(each.node, each.problem) for each in engine.check_server() if each.subject == "permissions"]
    finally:
        node.ask("ACL", "SETUSER", "default", "+zadd")
    assert findings == [(node.address, "the user may not call ZADD")]
