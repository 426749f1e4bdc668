"""Local Replicate in a process of its own: `python -m tests.benchmarks.local_server FOLDER`.

Prints where it is and how long it took to answer, then serves until standard input ends.
"""

import http.client
import json
import resource
import sys
import time
from pathlib import Path

from prefect_replicate.local import LocalReplicate
from tests.benchmarks import models


def main(folder: Path) -> None:
    """Start, push the models, report, serve."""
    # Each waiting client takes a file descriptor, and many systems begin with 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    (folder / "pushed").mkdir()
    start = time.perf_counter()
    with LocalReplicate(folder / "root") as server:
        host, port = server.base_url.removeprefix("http://").split(":")
        _ask_once(host, int(port), server.token)
        answered = time.perf_counter() - start
        versions = {
            name: server.push(models.write(folder / "pushed", name), f"acme/{name}").partition(":")[
                2
            ]
            for name in models.MODELS
        }
        report = {
            "port": int(port),
            "token": server.token,
            "answered": answered,
            "versions": versions,
        }
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


def _ask_once(host: str, port: int, token: str) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("GET", "/v1/account", headers={"Authorization": f"Bearer {token}"})
    assert connection.getresponse().status == 200
    connection.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
