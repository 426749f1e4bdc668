"""The command `prefect-replicate`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import httpx
from pydantic import ValidationError

from prefect_replicate.api.errors import ConfigurationError, ReplicateError, TransportError
from prefect_replicate.blocks.webhook import ReplicateWebhook, default_webhook
from prefect_replicate.jobs.engine import engine
from prefect_replicate.local import LocalReplicate, LocalReplicateError
from prefect_replicate.local.schema import BrokenModel
from prefect_replicate.webhooks.signatures import sign

_INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT
# Seconds that a look at another server may take before the receiver starts without it.
_LOOK_WITHIN = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Errors are told without a traceback."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (BrokenModel, LocalReplicateError, OSError, ReplicateError) as error:
        _tell(error)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _tell(what: object) -> None:
    print(f"prefect-replicate: {what}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prefect-replicate", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    local = commands.add_parser("local", help="Local Replicate, the embedded server")
    serve = local.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "serve", help="run it until Ctrl-C"
    )
    _add_address(serve, port=8777)
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
    webhooks = commands.add_parser("webhooks", help="the receiver of Replicate's webhooks")
    receive = webhooks.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "serve", help="run it until Ctrl-C"
    )
    _add_address(receive, port=8778)
    receive.add_argument("--public-url", metavar="URL", help="under which Replicate reaches it")
    receive.add_argument("--block", metavar="NAME", help="a saved ReplicateWebhook block")
    receive.set_defaults(run=_receive)
    return parser


def _add_address(command: argparse.ArgumentParser, *, port: int) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument("--port", type=int, default=port, help="0 takes a free one")


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


def _receive(options: argparse.Namespace) -> int:
    import uvicorn  # noqa: PLC0415 - only this command needs it

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    webhook = _webhook(options)
    with _listen(options.host, options.port) as listening:
        mailboxes = engine().run(_prefect_server)
        config = uvicorn.Config(
            webhook.receiver(), log_config=None, access_log=False, ws="none", loop="asyncio"
        )
        # uvicorn ends in order at both, and raises them again when it has.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        print(f"Webhooks are received on {_address(listening)} for the flow runs of {mailboxes}.")
        print(f"Replicate must reach it as {webhook.public_url}; try `curl {webhook.public_url}`.")
        print("Flows use it with")
        print(
            f"  export PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_URL={webhook.public_url}", flush=True
        )
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _webhook(options: argparse.Namespace) -> ReplicateWebhook:
    """What to receive, with a secret that can be one.

    Raises:
        ConfigurationError: It is not known, or wrong, or there is no secret and no credentials.
    """
    try:
        webhook = engine().run(
            lambda: default_webhook(block=options.block, public_url=options.public_url)
        )
        secret = engine().run(lambda: asyncio.wait_for(webhook.asecret(), _LOOK_WITHIN))
        sign(secret, "a try", datetime.now(UTC), b"")
    except ValidationError as error:
        raise ConfigurationError(error.errors(include_input=False)[0]["msg"]) from None
    except httpx.HTTPError as error:
        raise ConfigurationError(f"The Prefect server cannot be reached: {error}.") from None
    except (TimeoutError, TransportError) as error:
        _tell(f"warning: the webhook secret is fetched when it is needed. {error}")
    return webhook


async def _prefect_server() -> str:
    """The server that mail goes to. That it is not there now is worth a warning only."""
    client = await engine().prefect_client()
    try:
        problem = await asyncio.wait_for(client.api_healthcheck(), _LOOK_WITHIN)
    except TimeoutError:
        problem = TimeoutError(f"no answer within {_LOOK_WITHIN:g} s")
    if problem:
        _tell(f"warning: the Prefect server at {client.api_url} cannot be reached: {problem}")
    return str(client.api_url)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:  # the second for a port above 65535
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"Cannot listen on {host}:{port}: {reason}.") from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
