"""The command `prefect-replicate`.

Prefect is imported by `webhooks serve` alone: it would double the memory of `local serve`, and the
time that every command takes to begin.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from prefect_replicate.api.errors import ConfigurationError, ReplicateError, TransportError
from prefect_replicate.local import LocalReplicate, LocalReplicateError
from prefect_replicate.local.address import default_root, find
from prefect_replicate.local.remote import RemoteServer
from prefect_replicate.local.schema import BrokenModel
from prefect_replicate.local.web import is_loopback
from prefect_replicate.webhooks.signatures import sign

if TYPE_CHECKING:
    from prefect_replicate.blocks.webhook import ReplicateWebhook

_INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT
# Seconds that a look at another server may take before the receiver starts without it.
_LOOK_WITHIN = 5.0
_DEFAULT = "default: prefect-replicate/local in $XDG_DATA_HOME or ~/.local/share"
_LOCAL = "Serves Replicate's API on this machine, and runs Cog models that are pushed to it."
_WHICH = (
    "Without --root, the commands push, models and reset work on the server that "
    "REPLICATE_BASE_URL and REPLICATE_API_TOKEN name, if that is on this machine. Otherwise they "
    "work on the server that runs in the folder, or on the folder itself while none runs."
)


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
    local = commands.add_parser(
        "local", help="Local Replicate, the embedded server", description=_LOCAL, epilog=_WHICH
    )
    _add_local(local.add_subparsers(required=True, metavar="COMMAND"))
    webhooks = commands.add_parser("webhooks", help="the receiver of Replicate's webhooks")
    receive = webhooks.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "serve", help="run it until Ctrl-C"
    )
    _add_address(receive, port=8778)
    receive.add_argument("--public-url", metavar="URL", help="under which Replicate reaches it")
    receive.add_argument("--block", metavar="NAME", help="a saved ReplicateWebhook block")
    receive.set_defaults(run=_receive)
    return parser


def _add_local(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser("serve", help="run it until Ctrl-C")
    _add_address(serve, port=8777)
    place = serve.add_mutually_exclusive_group()
    place.add_argument("--root", type=Path, metavar="DIR", help=f"folder for its state; {_DEFAULT}")
    place.add_argument("--ephemeral", action="store_true", help="keep nothing when it stops")
    serve.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="push each folder in DIR that has a cog.yaml, as local/<its name>",
    )
    serve.add_argument(
        "--push",
        nargs=2,
        metavar=("FOLDER", "OWNER/NAME"),
        action="append",
        default=[],
        help="push a Cog model at the start; may be given several times",
    )
    serve.set_defaults(run=_serve)
    push = _add_asking(commands, "push", "make a Cog model's folder the newest version of a model")
    push.add_argument("folder", type=Path, metavar="FOLDER", help="holds cog.yaml")
    push.add_argument("name", metavar="OWNER/NAME", help="the model; it is made if there is none")
    push.add_argument(
        "--official", action="store_true", help="clients may run it without naming a version"
    )
    push.set_defaults(run=_push)
    models = _add_asking(commands, "models", "list the models, each with its newest version")
    models.set_defaults(run=_models)
    reset = _add_asking(commands, "reset", "remove all predictions, trainings and files")
    reset.add_argument(
        "--models", action="store_true", help="remove models, versions and deployments as well"
    )
    reset.add_argument("--yes", action="store_true", help="do not ask before")
    reset.set_defaults(run=_reset)


def _add_asking(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, does: str
) -> argparse.ArgumentParser:
    """A command that works on a server, or on its folder while none runs."""
    command = commands.add_parser(name, help=does, description=f"{does.capitalize()}. {_WHICH}")
    command.add_argument(
        "--root", type=Path, metavar="DIR", help=f"folder of the server's state; {_DEFAULT}"
    )
    return command


def _add_address(command: argparse.ArgumentParser, *, port: int) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument("--port", type=int, default=port, help="0 takes a free one")


def _serve(options: argparse.Namespace) -> int:
    # Until all is up, both break off what is under way, which may be the import of a model.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root = None if options.ephemeral else options.root or default_root()
    pushes = [(Path(folder), name) for folder, name in options.push]
    if options.models:
        pushes += _models_in(options.models)
    with LocalReplicate(root, host=options.host, port=options.port) as server:
        for folder, name in pushes:
            print(f"pushed {server.push(folder, name)}")
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        print("Local Replicate is up. Any Replicate client uses it with")
        print(f"  export REPLICATE_BASE_URL={server.base_url}")
        print(f"  export REPLICATE_API_TOKEN={server.token}")
        print(f"Its pages: {_pages(server)}")
        print(f"It keeps {f'its state in {root}' if root else 'nothing'}.", flush=True)
        stop.wait()
    return 0


def _pages(server: LocalReplicate) -> str:
    # It needs an extra, which a server that runs has looked for.
    from prefect_replicate.local.pages import front_page_link  # noqa: PLC0415

    return front_page_link(server.base_url, server.token)


def _models_in(folder: Path) -> list[tuple[Path, str]]:
    """The Cog models in the folders of a folder, with the names that they get.

    Raises:
        ConfigurationError: There is none.
    """
    found = sorted(config.parent for config in folder.glob("*/cog.yaml"))
    if not found:
        raise ConfigurationError(f"No folder in {folder} has a cog.yaml.")
    return [(each, f"local/{each.name}") for each in found]


def _push(options: argparse.Namespace) -> int:
    with _reached(options.root, make=True) as server:
        print(f"pushed {server.push(options.folder, options.name, official=options.official)}")
    return 0


def _models(options: argparse.Namespace) -> int:
    with _reached(options.root) as server:
        for model in server.models():
            print(model)
    return 0


def _reset(options: argparse.Namespace) -> int:
    with _reached(options.root) as server:
        what = "models, deployments, predictions" if options.models else "predictions"
        question = f"Remove all {what}, trainings and files of {server}? [y/N] "
        if not options.yes and not _agreed(question):
            _tell("nothing was removed")
            return 1
        server.reset(models=options.models)
    return 0


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in {"y", "yes"}
    except EOFError:
        return False


@contextmanager
def _reached(root: Path | None, *, make: bool = False) -> Iterator[RemoteServer]:
    """The server that a command means, or one on the same folder for as long as it is needed.

    Args:
        root: The folder of the server's state, if the command was given one.
        make: Begin a new state if there is none; else that is an error.

    Raises:
        LocalReplicateError: There is none, or it cannot be started.
    """
    named = os.environ.get("REPLICATE_BASE_URL", "")
    if root is None and _is_here(named):
        with RemoteServer(named, os.environ.get("REPLICATE_API_TOKEN", "")) as server:
            yield server
        return
    root = root or default_root()
    if not make and not root.is_dir():
        raise LocalReplicateError(f"No Local Replicate has kept anything: there is no {root}.")
    if running := find(root):
        with RemoteServer(running, (root / "token").read_text(), root) as server:
            yield server
        return
    with (
        LocalReplicate(root) as started,
        RemoteServer(started.base_url, started.token, root) as server,
    ):
        yield server


def _is_here(url: str) -> bool:
    """Whether a URL can only be of a server on this machine."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:  # no URL at all
        return False


def _receive(options: argparse.Namespace) -> int:
    import uvicorn  # noqa: PLC0415 - only this command needs it

    from prefect_replicate.jobs.engine import engine  # noqa: PLC0415 - brings Prefect

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
    from prefect_replicate.blocks.webhook import default_webhook  # noqa: PLC0415 - brings Prefect
    from prefect_replicate.jobs.engine import engine  # noqa: PLC0415 - the same

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
    from prefect_replicate.jobs.engine import engine  # noqa: PLC0415 - brings Prefect

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
