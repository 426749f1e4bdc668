"""Behind a proxy that speaks TLS, outputs have https URLs, and the clients make files of them."""

import ipaddress
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509  # Prefect brings it
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from replicate.client import Client
from replicate.helpers import FileOutput
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefect_replicate import LocalReplicate
from tests.clients.conftest import Models, Node
from tests.webhooks.conftest import serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now, day = datetime.now(UTC), timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    path = tmp_path_factory.mktemp("https") / "proxy.pem"
    path.write_bytes(private + public)
    return path


@pytest.fixture(scope="module")
def https_url(server: LocalReplicate, certificate: Path) -> Iterator[str]:
    """The server's address behind a proxy."""

    async def proxy(request: Request) -> Response:
        headers = {**request.headers, "x-forwarded-proto": "https"}
        body = await request.body()
        async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as http:
            answer = await http.request(
                request.method, request.url.path, headers=headers, content=body
            )
        return Response(answer.content, answer.status_code, dict(answer.headers))

    route = Route("/{path:path}", proxy, methods=["GET", "POST"])
    with serving(Starlette(routes=[route]), certificate) as url:
        yield url


@pytest.fixture
def client(server: LocalReplicate, https_url: str, certificate: Path) -> Client:
    trust = ssl.create_default_context(cafile=certificate)
    transport = httpx.HTTPTransport(verify=trust)
    return Client(server.token, base_url=https_url, transport=transport)


def test_the_python_client_reads_file_outputs(
    client: Client, models: Models, https_url: str
) -> None:
    outputs: Any = client.run(models.painter, input={"count": 2})
    assert all(isinstance(output, FileOutput) for output in outputs)
    assert all(output.url.startswith(https_url) for output in outputs)
    assert [output.read() for output in outputs] == [b"blank0", b"blank1"]
    assert b"".join(outputs[0]) == b"blank0"


def test_the_node_client_reads_file_outputs(
    node: Node, models: Models, https_url: str, certificate: Path
) -> None:
    said = node("https.mjs", certificate, httpsUrl=f"{https_url}/v1")
    assert said["file output"]["url"].startswith(https_url)
    assert said["file output"]["text"] == said["input again"] == "blank0"
