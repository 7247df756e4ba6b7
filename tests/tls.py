"""A server that speaks TLS, with a certificate made for it, where the machine has what that takes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import BINARIES, Server, running


@contextmanager
def tls_server(folder: Path, port: int) -> Iterator[tuple[Server, Path]]:
    """The server, and the certificate by which its clients know it; the test is skipped where there is none."""
    if "redis7" not in BINARIES or not shutil.which("openssl"):
        pytest.skip("no server of the machine's own, or no openssl")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    subprocess.run(
        [*make.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    options = {
        "bind": "127.0.0.1",
        "tls_port": str(port),
        "tls_cert_file": str(certificate),
        "tls_key_file": str(key),
        "tls_auth_clients": "no",
    }
    context = running("redis7", **options)
    try:
        server = context.__enter__()
    except RuntimeError as error:
        pytest.skip(f"the server was built without TLS: {error}")
    try:
        yield server, certificate
    finally:
        context.__exit__(None, None, None)
