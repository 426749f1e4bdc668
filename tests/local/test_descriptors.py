"""Each connection takes a file descriptor, and a program has only so many."""

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

PROGRAM = """
import json, resource, sys
from prefect_replicate.local import LocalReplicate
soft, hard = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
with LocalReplicate() as server:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    print(json.dumps([server.base_url, server.token, *limit]), flush=True)
    sys.stdin.read()
"""


@contextmanager
def _served(errors: Path, soft: int, hard: int) -> Iterator[tuple[str, str, int, int]]:
    """A server in a program with these limits; its URL, its token, and what it made of them."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([soft, hard])]
    with (
        errors.open("w") as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        ) as program,
    ):
        assert program.stdout
        try:
            base_url, token, *limits = json.loads(program.stdout.readline())
            yield base_url, token, limits[0], limits[1]
        finally:
            program.communicate()


def _ask(connection: httpx.Client, base_url: str, token: str) -> httpx.Response:
    return connection.get(f"{base_url}/account", headers={"Authorization": f"Bearer {token}"})


def test_the_server_asks_for_the_descriptors_that_it_may_have(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with _served(tmp_path / "errors", 100, hard) as (_, _, soft, still):
        assert soft == (10_240 if hard == resource.RLIM_INFINITY else min(hard, 10_240))
        assert still == hard


@pytest.fixture
def few(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A server that may not have more than 128 descriptors, so it takes 64 connections."""
    with _served(tmp_path / "errors", 128, 128) as (base_url, token, _, _):
        yield base_url, token


def test_a_client_too_many_is_told_so_and_the_others_are_served(few: tuple[str, str]) -> None:
    with ExitStack() as held:
        clients = [held.enter_context(httpx.Client()) for _ in range(64)]
        assert {_ask(client, *few).status_code for client in clients} == {200}
        refused = _ask(held.enter_context(httpx.Client()), *few)
        assert refused.status_code == 503
        assert "ulimit -n" in refused.json()["detail"]
        assert refused.headers["connection"] == "close"
        assert _ask(clients[0], *few).status_code == 200
    with httpx.Client() as later:
        assert _ask(later, *few).status_code == 200


def test_connections_that_ask_for_nothing_cost_one_line_of_complaint(
    few: tuple[str, str], tmp_path: Path
) -> None:
    base_url, token = few
    host, port = base_url.removeprefix("http://").split(":")
    errors = tmp_path / "errors"
    with ExitStack() as held:
        for _ in range(200):
            held.enter_context(socket.create_connection((host, int(port))))
        while "takes no more connections" not in errors.read_text():
            time.sleep(0.02)
    with httpx.Client(timeout=30) as later:
        assert _ask(later, base_url, token).status_code == 200
    assert len(errors.read_text().splitlines()) == 1
