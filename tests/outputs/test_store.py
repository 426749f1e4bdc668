"""Outputs in storage: whole, hashed, with a manifest last, or not at all."""

import asyncio
import hashlib
import json
from pathlib import Path

import fsspec
import pytest

from prefect_replicate.api.client import Downloads
from prefect_replicate.api.errors import BadInputError, NotFoundError, TransportError
from prefect_replicate.api.resources import JobURLs, Prediction
from prefect_replicate.outputs.store import Store, reading
from tests.api.conftest import Script, answer, downloads, script

__all__ = ["downloads", "script"]  # Fixtures.


def _prediction(output: object, api: str = "http://127.0.0.1:9") -> Prediction:
    return Prediction(
        id="abc",
        status="succeeded",
        model="o/n",
        version="v",
        output=output,
        urls=JobURLs(get=f"{api}/v1/predictions/abc"),
    )


async def test_every_file_is_kept_with_size_and_hash_and_the_manifest_names_them(
    script: Script, downloads: Downloads, tmp_path: Path
) -> None:
    script.answers = [answer(200, "x" * 3_000_000), answer(200, "two")]
    output = [f"{script.base_url}/a.bin", f"{script.base_url}/b.txt"]
    saved = await Store(str(tmp_path)).save(downloads, _prediction(output, script.base_url))
    content = {file.name: Path(file.uri).read_bytes() for file in saved.files}
    assert content["output-0.bin"] == b"x" * 3_000_000
    assert content["output-1.txt"] == b"two"
    for file in saved.files:
        assert file.size == len(content[file.name])
        assert file.sha256 == hashlib.sha256(content[file.name]).hexdigest()
    manifest = json.loads(Path(saved.manifest).read_text())
    assert manifest["files"] == [file.model_dump() for file in saved.files]
    assert (manifest["id"], manifest["model"]) == ("abc", "o/n")


async def test_any_fsspec_storage_will_do(downloads: Downloads) -> None:
    saved = await Store("memory://kept/here/").save(downloads, _prediction(["In ", "the"]))
    assert saved.files[0].uri == "memory://kept/here/abc/output.txt"
    with fsspec.open(saved.files[0].uri) as file:
        assert file.read() == b"In the"
    with fsspec.open(saved.manifest) as file:
        assert json.loads(file.read())["files"][0]["name"] == "output.txt"


async def test_saving_again_gives_the_same_files(downloads: Downloads, tmp_path: Path) -> None:
    store, prediction = Store(str(tmp_path)), _prediction("data:text/plain;base64,aGk=")
    assert await store.save(downloads, prediction) == await store.save(downloads, prediction)
    assert sorted(path.name for path in (tmp_path / "abc").iterdir()) == [
        "manifest.json",
        "output.txt",
    ]


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (answer(404), NotFoundError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf", TransportError),
    ],
)
async def test_a_file_that_does_not_come_whole_leaves_nothing_half_written(
    script: Script, downloads: Downloads, tmp_path: Path, trouble: bytes, error: type[Exception]
) -> None:
    script.answers = [answer(200, "one"), trouble]
    output = [f"{script.base_url}/a.txt", f"{script.base_url}/b.txt"]
    with pytest.raises(error):
        await Store(str(tmp_path)).save(downloads, _prediction(output, script.base_url))
    # The first is whole; of the second there is nothing; and no manifest claims to be complete.
    assert [path.name for path in (tmp_path / "abc").iterdir()] == ["output-0.txt"]


async def test_a_file_has_its_name_only_once_it_is_whole(
    script: Script, downloads: Downloads, tmp_path: Path
) -> None:
    script.pause = 0.3
    script.answers = [answer(200, "one"), answer(200, "two")]
    output = [f"{script.base_url}/a.txt", f"{script.base_url}/b.txt"]
    saving = asyncio.ensure_future(
        Store(str(tmp_path)).save(downloads, _prediction(output, script.base_url))
    )
    while len(script.requests) < 2:
        await asyncio.sleep(0.01)
    names = sorted(path.name for path in (tmp_path / "abc").iterdir())
    assert names[0] == "output-0.txt"
    assert names[1].startswith("output-1.txt.part-")
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert [path.name for path in (tmp_path / "abc").iterdir()] == ["output-0.txt"]


@pytest.mark.parametrize("url", ["memory://", "memory:///", "memory://x/"])
async def test_the_root_of_a_storage_is_a_folder_too(
    url: str, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = await Store(url).save(downloads, _prediction("here"))
    with fsspec.open(saved.files[0].uri) as file:
        assert file.read() == b"here"
    assert list(tmp_path.iterdir()) == []  # It went to memory, not to a folder named "memory:".


@pytest.mark.parametrize(
    "url", ["nothing://here", "/dev/null/folder", "s3://bucket/prefix", "/proc/outputs"]
)
async def test_storage_that_cannot_be_written_is_known_beforehand(url: str) -> None:
    with pytest.raises(BadInputError, match="Cannot write to the storage") as caught:
        await Store(url).verify()
    assert url in str(caught.value)


async def test_a_check_of_storage_leaves_nothing_behind(tmp_path: Path) -> None:
    await Store(str(tmp_path / "new")).verify()
    assert list((tmp_path / "new").iterdir()) == []


def test_sources_of_all_kinds_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("local")
    with fsspec.open("memory://reading/b.txt", "wb") as file:
        file.write(b"remote")
    for source, content in [
        (str(tmp_path / "a.txt"), b"local"),
        ((tmp_path / "a.txt").as_uri(), b"local"),
        ("memory://reading/b.txt", b"remote"),
    ]:
        with reading(source) as read:
            assert read.read() == content


@pytest.mark.parametrize(
    "source",
    ["/no/such/file", "nothing://here", "memory://no/such", "/tmp"],  # noqa: S108 - a folder
)
def test_a_source_that_cannot_be_read_is_named(source: str) -> None:
    with pytest.raises(BadInputError, match="Cannot read") as caught, reading(source):
        pass
    assert source in str(caught.value)
