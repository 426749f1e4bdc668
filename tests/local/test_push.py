"""Models that are pushed over HTTP: as an archive, by any client or by `RemoteServer`."""

from __future__ import annotations

import io
import socket
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from prefect_replicate.local import LocalReplicate, LocalReplicateError
from prefect_replicate.local.remote import Pushed, RemoteServer
from prefect_replicate.local.schema import BrokenModel
from tests.local.conftest import Api, ModelFolder

HELLO = """
from pathlib import Path
from cog import BasePredictor

class Predictor(BasePredictor):
    def predict(self) -> str:
        return Path("words/text.txt").read_text()
"""
BROKEN = "from cog import BasePredictor\nraise RuntimeError('not today')\n"


@pytest.fixture
def hello(model_folder: ModelFolder) -> Path:
    """A model's folder with a file in a folder of it."""
    folder = model_folder(HELLO)
    (folder / "words").mkdir()
    (folder / "words" / "text.txt").write_text("hello")
    return folder


@pytest.fixture
def remote(server_of_its_own: Api) -> Iterator[RemoteServer]:
    server = server_of_its_own.server
    with RemoteServer(server.base_url, server.token) as remote:
        yield remote


def archive_of(folder: Path, mode: str = "w") -> bytes:
    """An archive as `tar -C folder -c .` makes it; "w:gz" for a compressed one."""
    content = io.BytesIO()
    # mypy knows each mode by its literal only.
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, ".")
    return content.getvalue()


def archive_with(folder: Path, entry: tarfile.TarInfo, content: bytes = b"") -> bytes:
    """An archive of a model and one entry more."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as opened:
        opened.add(folder, ".")
        opened.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def push(api: Api, name: str, content: bytes, query: str = "") -> httpx.Response:
    """Send an archive."""
    url = f"{api.server.base_url}/_local/models/{name}/versions{query}"
    return api.http.post(url, content=content)


# --- archives --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_becomes_the_version_that_its_folder_would_be(
    api: Api, server: LocalReplicate, hello: Path, mode: str
) -> None:
    answer = push(api, "http/hello", archive_of(hello, mode))
    assert answer.status_code == 201
    assert answer.json() == {"version": server.push(hello, "http/hello")}
    assert api.predict(answer.json()["version"])["output"] == "hello"


def test_a_model_may_be_pushed_as_an_official_one(api: Api, hello: Path) -> None:
    assert push(api, "http/official", archive_of(hello), "?official=true").status_code == 201
    run = api.http.post("/models/http/official/predictions", json={"input": {}})
    assert run.status_code == 201


def _damaged(folder: Path) -> bytes:
    """A compressed archive that breaks in the middle of a file's content."""
    whole = archive_with(folder, _sized("big.bin", 100_000), bytes(100_000))
    squeezed = zlib.compressobj(wbits=31)  # as gzip
    return squeezed.compress(whole[:-50_000]) + squeezed.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 100


def _sized(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry


def _link(kind: bytes, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo("link")
    entry.type, entry.linkname = kind, target
    return entry


REFUSED: dict[str, Callable[[Path], bytes]] = {
    "an absolute path": lambda folder: archive_with(folder, tarfile.TarInfo("/escaped")),
    "a path upwards": lambda folder: archive_with(folder, tarfile.TarInfo("../escaped")),
    "a path down and up": lambda folder: archive_with(folder, tarfile.TarInfo("a/../../escaped")),
    "a symbolic link out": lambda folder: archive_with(folder, _link(tarfile.SYMTYPE, "../../x")),
    "an absolute link": lambda folder: archive_with(folder, _link(tarfile.SYMTYPE, "/etc")),
    "a hard link out": lambda folder: archive_with(folder, _link(tarfile.LNKTYPE, "../../x")),
    "a device": lambda folder: archive_with(folder, _link(tarfile.CHRTYPE, "")),
    "a pipe": lambda folder: archive_with(folder, _link(tarfile.FIFOTYPE, "")),
    "a file where a folder is": lambda folder: archive_with(folder, tarfile.TarInfo("words")),
    "no archive": lambda _: b"PK" + bytes(600),
    "half an archive": lambda folder: archive_of(folder, "w:gz")[:-200],
    "a damaged archive": _damaged,
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_archive_that_is_refused_adds_nothing(
    server_of_its_own: Api, hello: Path, tmp_path: Path, what: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    answer = push(server_of_its_own, "http/refused", REFUSED[what](hello))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "Bad archive"
    assert server_of_its_own.http.get("/models/http/refused").status_code == 404
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_of_more_than_a_model_may_hold_is_too_large(api: Api, hello: Path) -> None:
    huge = tarfile.TarInfo("weights.bin")
    huge.size = 10**13
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(hello, ".")
    whole = content.getvalue()
    end = whole.rindex(b"hello") // 512 * 512 + 512
    answer = push(api, "http/huge", whole[:end] + huge.tobuf() + bytes(1024))
    assert answer.status_code == 413
    assert api.http.get("/models/http/huge").status_code == 404


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(server: LocalReplicate) -> None:
    host, port = server.base_url.removeprefix("http://").split(":")
    head = (
        "POST /_local/models/http/long/versions HTTP/1.1\r\n"
        f"Host: {host}\r\nAuthorization: Bearer {server.token}\r\nContent-Length: {10**13}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("name", ["http/-dash", "-/model", "http/a b"])
def test_a_name_that_no_model_can_have_is_refused(api: Api, hello: Path, name: str) -> None:
    answer = push(api, name, archive_of(hello))
    assert answer.status_code == 422
    assert "is not the name of a model" in answer.json()["detail"]


def test_nobody_pushes_without_the_token(api: Api, hello: Path) -> None:
    url = f"{api.server.base_url}/_local/models/http/secret/versions"
    assert httpx.post(url, content=archive_of(hello)).status_code == 401


def test_the_report_on_a_broken_model_has_its_authors_paths(
    api: Api, model_folder: ModelFolder
) -> None:
    answer = push(api, "http/broken", archive_of(model_folder(BROKEN)))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "No usable Cog model"
    report = answer.json()["report"]
    assert report["problem"] == "predict.py cannot be imported: RuntimeError: not today"
    assert 'File "predict.py", line 2' in report["detail"]
    assert report["advice"].startswith("Correct predict.py.")
    assert api.http.get("/models/http/broken").status_code == 404


# --- the server as another process sees it ---------------------------------------------------


def test_a_folder_is_pushed_as_if_by_the_server_itself(
    server_of_its_own: Api, remote: RemoteServer, hello: Path
) -> None:
    (hello / ".git").mkdir()
    (hello / ".git" / "HEAD").write_text("not of the model")
    (hello / "words" / "text.txt").rename(hello.parent / "outside.txt")
    (hello / "words" / "text.txt").symlink_to(hello.parent / "outside.txt")
    version = remote.push(hello, "http/folder", official=True)
    assert version == server_of_its_own.server.push(hello, "http/folder")
    assert server_of_its_own.predict(version)["output"] == "hello"
    shown = server_of_its_own.http.get("/models/http/folder").json()
    assert shown["is_official"] is True


def test_models_are_listed_with_their_newest_versions(
    server_of_its_own: Api, remote: RemoteServer, hello: Path
) -> None:
    server_of_its_own.model("local", "empty")
    version = remote.push(hello, "http/one")
    found = remote.models()
    assert found == [
        Pushed("http/one", version.partition(":")[2], official=False),
        Pushed("local/empty", None, official=False),
    ]
    assert [str(each) for each in found] == [version, "local/empty (no version)"]


def test_more_models_than_fit_on_a_page_are_listed(
    server_of_its_own: Api, remote: RemoteServer
) -> None:
    for number in range(30):
        server_of_its_own.model("local", f"m{number}")
    assert len({model.name for model in remote.models()}) == 30


def test_a_broken_folder_has_the_report_that_the_server_itself_gives(
    server_of_its_own: Api, remote: RemoteServer, model_folder: ModelFolder
) -> None:
    folder = model_folder(BROKEN)
    with pytest.raises(BrokenModel) as over_http:
        remote.push(folder, "http/broken")
    assert str(over_http.value).startswith(
        f"No usable Cog model in {folder}: predict.py cannot be imported: RuntimeError: not today."
    )
    assert remote.models() == []


@pytest.mark.parametrize("what", ["nothing", "a link to a folder"])
def test_a_folder_that_cannot_be_a_version_is_not_sent(
    remote: RemoteServer, hello: Path, what: str
) -> None:
    if what == "nothing":
        (hello / "cog.yaml").unlink()
    else:
        (hello / "link").symlink_to(hello.parent)
    with pytest.raises(BrokenModel, match=str(hello)):
        remote.push(hello, "http/unsent")


def test_a_server_that_is_not_there_or_refuses_is_told_by_its_address(
    remote: RemoteServer, unused_tcp_port: int
) -> None:
    nowhere = f"http://127.0.0.1:{unused_tcp_port}"
    with (
        RemoteServer(nowhere, "r8_x") as absent,
        pytest.raises(LocalReplicateError, match=f"No Local Replicate answers at {nowhere}"),
    ):
        absent.models()
    with (
        RemoteServer(f"{remote.base_url}/v1/", "") as stranger,
        pytest.raises(LocalReplicateError, match=f"{remote.base_url} refuses the API token"),
    ):
        stranger.models()


def test_a_reset_leaves_the_models_unless_they_are_to_go_too(
    server_of_its_own: Api, remote: RemoteServer, hello: Path
) -> None:
    run = server_of_its_own.predict(remote.push(hello, "http/kept"))
    remote.reset(models=False)
    assert server_of_its_own.http.get(f"/predictions/{run['id']}").status_code == 404
    assert [model.name for model in remote.models()] == ["http/kept"]
    remote.reset(models=True)
    assert remote.models() == []
