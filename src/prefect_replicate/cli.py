"""The command `prefect-replicate`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from prefect_replicate.api.errors import ReplicateError
from prefect_replicate.local import LocalReplicate, LocalReplicateError
from prefect_replicate.local.schema import BrokenModel

_INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Errors are told without a traceback."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (BrokenModel, LocalReplicateError, OSError, ReplicateError) as error:
        print(f"prefect-replicate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prefect-replicate", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    local = commands.add_parser("local", help="Local Replicate, the embedded server")
    serve = local.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "serve", help="run it until Ctrl-C"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=int, default=8777, help="0 takes a free one")
    serve.add_argument("--root", help="folder for its state; without one nothing is kept")
    serve.add_argument(
        "--push",
        nargs=2,
        metavar=("FOLDER", "OWNER/NAME"),
        action="append",
        default=[],
        help="add a Cog model at the start",
    )
    serve.set_defaults(run=_serve)
    return parser


def _serve(options: argparse.Namespace) -> int:
    # Until all is up, both break off what is under way, which may be the import of a model.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with LocalReplicate(options.root, host=options.host, port=options.port) as server:
        for folder, name in options.push:
            print(f"pushed {server.push(folder, name)}")
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        print("Local Replicate is up. Any Replicate client uses it with")
        print(f"  export REPLICATE_BASE_URL={server.base_url}")
        print(f"  export REPLICATE_API_TOKEN={server.token}", flush=True)
        stop.wait()
    return 0
