"""A running Local Replicate as another process sees it: over HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx

from prefect_replicate.api.references import parse_name
from prefect_replicate.local.archives import pack
from prefect_replicate.local.schema import BrokenModel, no_config
from prefect_replicate.local.server import LocalReplicateError
from prefect_replicate.local.versions import model_files

# Seconds for an answer to begin. A push has none: it ends when the model's code is imported.
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """A model that a server has.

    Attributes:
        name: "owner/name".
        version: The id of its newest version; None if it has none.
        official: Whether clients may run it without naming a version.
    """

    name: str
    version: str | None
    official: bool

    def __str__(self) -> str:
        what = f"{self.name}:{self.version}" if self.version else f"{self.name} (no version)"
        return f"{what} (official)" if self.official else what


class RemoteServer:
    """A server that runs in another process, or in this one.

    Args:
        base_url: Where it listens, without /v1.
        token: The API token that it asks for.
        root: The folder of its state, if that is known.
    """

    def __init__(self, base_url: str, token: str, root: Path | None = None) -> None:
        self.base_url, self._root = base_url.rstrip("/").removesuffix("/v1"), root
        self._http = httpx.Client(
            headers={b"Authorization": f"Bearer {token}".strip().encode()},
            timeout=_PATIENCE,
            trust_env=False,  # it is on this machine, behind no proxy
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def __str__(self) -> str:
        where = f"in {self._root}" if self._root else f"at {self.base_url}"
        return f"Local Replicate {where}"

    def push(self, folder: Path, name: str, *, official: bool = False) -> str:
        """Publish the Cog model in a folder as the newest version of a model.

        Returns:
            "owner/name:version".

        Raises:
            BadReferenceError: `name` is not "owner/name".
            BrokenModel: The folder holds no usable model; nothing was added.
            LocalReplicateError: The server does not answer, or refuses.
        """
        path = f"/_local/models/{parse_name(name)}/versions"
        if not (folder / "cog.yaml").is_file():
            raise no_config(folder)  # before whatever else is in there is packed
        with _packed(folder, self._root) as archive:
            answer = self._send(
                "POST",
                path,
                content=archive,
                params={"official": "true"} if official else {},
                headers={"Content-Type": "application/x-tar"},
                timeout=httpx.Timeout(_PATIENCE, read=None, write=None),
            )
        if report := _json(answer).get("report"):
            raise BrokenModel(folder, report["problem"], report["advice"], report["detail"])
        return str(self._understood(answer)["version"])

    def models(self) -> list[Pushed]:
        """All models, those with the newest versions first.

        Raises:
            LocalReplicateError: The server does not answer, or refuses.
        """
        return [_pushed(shown) for shown in self._listed("/v1/models")]

    def reset(self, *, models: bool) -> None:
        """Remove all predictions, trainings and files, and with `models` the models as well.

        Raises:
            LocalReplicateError: The server does not answer, or refuses.
        """
        self._understood(self._send("POST", "/_local/reset", json={"models": models}))

    def _listed(self, path: str) -> Iterator[Mapping[str, Any]]:
        while path:
            page = self._understood(self._send("GET", path))
            yield from page["results"]
            path = (page["next"] or "").removeprefix(self.base_url)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, self.base_url + path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise LocalReplicateError(
                f"No Local Replicate answers at {self.base_url}: {reason}. Start it, or say where "
                "another one is."
            ) from error

    def _understood(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise LocalReplicateError(f"The server at {self.base_url} refuses the API token.")
        if answer.is_success:
            return _json(answer)
        said = _json(answer).get("detail") or answer.reason_phrase
        raise LocalReplicateError(
            f"The server at {self.base_url} refuses with status {answer.status_code}: {said}"
        )


@contextmanager
def _packed(folder: Path, root: Path | None) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as archive:
        pack(folder, model_files(folder, root), archive)
        archive.seek(0)
        yield archive


def _json(answer: httpx.Response) -> dict[str, Any]:
    """The object that was answered; an empty one for any other body."""
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _pushed(shown: Mapping[str, Any]) -> Pushed:
    latest = shown["latest_version"]
    name = f"{shown['owner']}/{shown['name']}"
    return Pushed(name, latest and latest["id"], shown["is_official"])
