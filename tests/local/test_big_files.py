"""Files of a model pass through without being held in memory, and none is left behind.

The size is small enough for every day. BIG_FILE_MIB=1024 makes it a GiB.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_replicate.local import LocalReplicate, handover
from tests.local.conftest import Api, ModelFolder, write_model

SIZE = int(os.environ.get("BIG_FILE_MIB", "64"))
# What a process may grow by, in MiB; base64 alone would take more than SIZE.
ROOM = min(SIZE // 2, 100)
LEFTOVERS = Path("/tmp/coglet/predictions")  # noqa: S108 - coglet's choice
HEAD = """
import os, time
from typing import Any, AsyncIterator, Dict, Iterator, List, Optional
import cog
from cog import BaseModel, BasePredictor, Input, Path

def write(name: str, mebibytes: int) -> Path:
    with open(name, "wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1 << 20))
    return Path(name)

class Output(BaseModel):
    note: str
    weights: Path
    more: List[Path]

class Predictor(BasePredictor):
"""
SHAPES = {
    "a file": """
    def predict(self, size: int) -> Path:
        return write("out.bin", size)
""",
    "a list": """
    def predict(self, size: int) -> List[Path]:
        return [write(f"{number}.bin", size // 4) for number in range(4)]
""",
    "an iterator": """
    def predict(self, size: int) -> Iterator[Path]:
        for _ in range(4):
            yield write("the same.bin", size // 4)
""",
    "an async iterator": """
    async def predict(self, size: int) -> AsyncIterator[Path]:
        for _ in range(4):
            yield write("the same.bin", size // 4)
""",
    "an object": """
    async def predict(self, size: int) -> Output:
        more = [write("more.bin", size // 2)]
        return Output(note="two", weights=write("weights.bin", size // 2), more=more)
""",
    "an open file": """
    def predict(self, size: int) -> cog.File:
        return open(write("out.bin", size), "rb")
""",
}
READER = """
    def predict(self, first: Path, second: Optional[Path] = None) -> int:
        return first.stat().st_size
"""
HOLDER = """
    def setup(self) -> None:
        import tempfile
        self.held = [tempfile.mkstemp()[1], tempfile.mkdtemp()]

    def predict(self, file: Path) -> bool:
        return all(map(os.path.exists, self.held))
"""
FULL_DISK = """
import os, resource, runpy, sys
from pathlib import Path
vars(os).pop("copy_file_range", None)  # as on systems that have none
copy = runpy.run_path(sys.argv[1])["_copy"]
source, target = Path(sys.argv[2], "source"), Path(sys.argv[2], "target")
source.write_bytes(bytes(1_500_000))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))
try:
    copy(source, target)
except OSError:
    sys.exit()
sys.exit(f"{target.stat().st_size} bytes were copied, and no error raised")
"""
TRAINER = """
import os
from cog import BaseModel, Path

class TrainingOutput(BaseModel):
    weights: Path

def train(size: int) -> TrainingOutput:
    with open("weights.bin", "wb") as file:
        for _ in range(size):
            file.write(os.urandom(1 << 20))
    print(os.stat("weights.bin").st_ino)
    return TrainingOutput(weights=Path("weights.bin"))
"""
ODD = """
    def predict(
        self, do: str, path: str = "", text: str = "", seconds: float = 0
    ) -> Iterator[Any]:
        if do == "deliver":
            yield Path(path)
        if do == "link":
            os.symlink(path, "link.txt")
            yield Path("link.txt")
        if do == "forge":
            folder = cog.current_scope().context["prefect_replicate_output"]
            name = "0" * 32 + ".txt"
            os.symlink(path, f"{folder}/{name}")
            yield f"\\x00handed:{name}"
            yield {"file": f"\\x00handed:../{name}"}
            yield "\\x00file:\\x00file:a/b.txt"
        if do == "write":
            yield write(path, 0) if not text else Path(path)
        if do in {"stop", "fail"}:
            yield write("first.bin", 1)
            time.sleep(seconds)
            yield [write("second.bin", 1), Path("missing.bin")]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("big")
    yield folder / "root"
    shutil.rmtree(folder)  # pytest would keep it, and it is big


@pytest.fixture(scope="module")
def big(root: Path) -> Iterator[Api]:
    """A client of a server of whose processes and files nobody else has any."""
    with LocalReplicate(root) as server:
        yield Api(server)


@pytest.fixture(scope="module")
def odd(big: Api, tmp_path_factory: pytest.TempPathFactory) -> str:
    return big.server.push(write_model(tmp_path_factory.mktemp("odd"), HEAD + ODD), "acme/odd")


def _finished(api: Api, version: str, **input: Any) -> dict[str, Any]:
    run = api.predict(version, **input)
    # A GiB takes its seconds.
    for _ in range(10):
        if run["status"] in {"starting", "processing"}:
            run = api.end(run)
    assert run["status"] == "succeeded", run["error"]
    return run


def _files(value: Any) -> list[str]:
    """The URLs in an output, in their order."""
    if isinstance(value, list):
        return [url for item in value for url in _files(item)]
    if isinstance(value, dict):
        return _files(list(value.values()))
    return [value] if str(value).startswith("http") else []


def _stored(root: Path) -> set[Path]:
    return {path for path in (root / "files").rglob("*") if path.is_file()}


def _processes(root: Path) -> list[int]:
    """This process, in which the server is, and those of its models."""
    found = [os.getpid()]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink().is_relative_to(root):
                found.append(int(folder.name))
        except OSError:
            continue  # ended meanwhile, or not ours
    return found


class Peaks:
    """How much memory processes take at most, from here on."""

    def __init__(self, root: Path) -> None:
        processes = _processes(root)
        for process in processes:
            Path(f"/proc/{process}/clear_refs").write_text("5")  # forget the peak so far
        self._before = self._peaks(processes)

    def _peaks(self, processes: Iterable[int]) -> dict[int, float]:
        found = {}
        for process in processes:
            with suppress(OSError):  # the pool has ended it meanwhile
                status = Path(f"/proc/{process}/status").read_text()
                if "VmHWM:" in status:
                    found[process] = int(status.partition("VmHWM:")[2].split()[0]) / 1024
        return found

    def growth(self) -> dict[int, float]:
        """MiB by process, of those that still live."""
        now = self._peaks(self._before)
        return {process: peak - self._before[process] for process, peak in now.items()}


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads peaks of memory from /proc")


@on_linux
@pytest.mark.parametrize("shape", SHAPES)
def test_nobody_holds_a_big_output_in_memory(
    shape: str, big: Api, root: Path, model_folder: ModelFolder
) -> None:
    version = big.server.push(model_folder(HEAD + SHAPES[shape]), f"acme/{shape.replace(' ', '-')}")
    _finished(big, version, size=4)
    peaks = Peaks(root)
    run = _finished(big, version, size=SIZE)
    growth = peaks.growth()
    assert len(growth) >= 3  # the server, coglet, the model
    assert max(growth.values()) < ROOM, growth
    sizes = [int(httpx.head(url).headers["content-length"]) for url in _files(run["output"])]
    assert sum(sizes) == SIZE << 20
    _is_clean(big, root, run)


@on_linux
def test_nobody_holds_a_big_input_in_memory(
    big: Api, root: Path, model_folder: ModelFolder, tmp_path: Path
) -> None:
    writer = big.server.push(model_folder(HEAD + SHAPES["a file"]), "acme/writer")
    small, url = (_finished(big, writer, size=size)["output"] for size in (1, SIZE))
    reader = big.server.push(write_model(tmp_path / "reader", HEAD + READER), "acme/reader")
    assert _finished(big, reader, first=small)["output"] == 1 << 20
    peaks = Peaks(root)
    run = _finished(big, reader, first=url)
    assert run["output"] == SIZE << 20
    assert max(peaks.growth().values()) < ROOM, peaks.growth()
    _is_clean(big, root, run)


@on_linux
def test_a_big_file_is_delivered_in_pieces(big: Api, root: Path, model_folder: ModelFolder) -> None:
    version = big.server.push(model_folder(HEAD + SHAPES["a file"]), "acme/writer")
    url = _finished(big, version, size=SIZE)["output"]
    peaks = Peaks(root)
    with httpx.stream("GET", url) as response:
        assert sum(map(len, response.iter_raw(1 << 20))) == SIZE << 20
    middle = httpx.get(url, headers={"Range": f"bytes={1 << 20}-{(1 << 20) + 9}"})
    assert max(peaks.growth().values()) < ROOM, peaks.growth()
    assert (middle.status_code, len(middle.content)) == (206, 10)
    assert middle.headers["content-range"].endswith(f"/{SIZE << 20}")


@on_linux
def test_the_weights_of_a_training_are_neither_copied_nor_held_in_memory(
    big: Api, root: Path, model_folder: ModelFolder
) -> None:
    version = big.server.push(model_folder(HEAD + READER, TRAINER), "acme/trainee")
    big.model("local", "trained")
    before = _stored(root)
    peaks = Peaks(root)
    run = big.end(big.train(version, "local/trained", size=SIZE).json())
    assert run["status"] == "succeeded", run["error"]
    assert max(peaks.growth().values()) < ROOM
    (weights,) = _stored(root) - before
    assert weights.stat().st_size == SIZE << 20
    assert weights.stat().st_ino == int(run["logs"])


def test_files_of_a_list_keep_their_order_and_content(big: Api, model_folder: ModelFolder) -> None:
    source = """
    def predict(self, count: int) -> List[Path]:
        made = [Path(f"{number}.txt") for number in range(count)]
        for number, path in enumerate(made):
            path.write_text(str(number) * (count - number) * 10_000)
        return made
"""
    version = big.server.push(model_folder(HEAD + source), "acme/lister")
    urls = _finished(big, version, count=9)["output"]
    assert [httpx.get(url).text[0] for url in urls] == list("012345678")


def test_a_file_that_the_model_writes_again_stays_as_it_was_delivered(
    big: Api, model_folder: ModelFolder
) -> None:
    source = """
    def predict(self, text: str) -> Iterator[Path]:
        for number in range(3):
            Path("same.txt").write_text(f"{text} {number}")
            yield Path("same.txt")
"""
    version = big.server.push(model_folder(HEAD + source), "acme/rewriter")
    urls = [url for text in "ab" for url in _finished(big, version, text=text)["output"]]
    assert [httpx.get(url).text for url in urls] == ["a 0", "a 1", "a 2", "b 0", "b 1", "b 2"]


def test_a_model_that_calls_itself_gets_files_and_keeps_them(
    big: Api, model_folder: ModelFolder
) -> None:
    source = """
    def predict(self, depth: int = Input(default=2)) -> Path:
        if not depth:
            Path("end.txt").write_text("end")
            return Path("end.txt")
        inner = self.predict(depth=depth - 1)
        Path(f"{depth}.txt").write_text(f"{depth} {inner.read_text()}")
        return Path(f"{depth}.txt")
"""
    version = big.server.push(model_folder(HEAD + source), "acme/recursive")
    assert httpx.get(_finished(big, version)["output"]).text == "2 1 end"
    assert httpx.get(_finished(big, version, depth=1)["output"]).text == "1 end"


@pytest.mark.parametrize("do", ["deliver", "link"])
def test_a_file_of_somebody_else_is_delivered_and_stays_where_it_is(
    do: str, big: Api, odd: str, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("not the model's")
    (url,) = _finished(big, odd, do=do, path=str(foreign))["output"]
    assert httpx.get(url).text == "not the model's"
    assert url.endswith("/out-0.txt")
    assert foreign.stat().st_nlink == 1


def test_a_model_cannot_have_a_link_or_a_name_taken_for_a_file(
    big: Api, odd: str, root: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("secret")
    before = _stored(root)
    name = "0" * 32 + ".txt"
    output = _finished(big, odd, do="forge", path=str(foreign))["output"]
    assert output == [f"\x00handed:{name}", {"file": f"\x00handed:../{name}"}, "a/b.txt"]
    assert _stored(root) == before
    assert foreign.read_text() == "secret"


def test_a_failed_prediction_leaves_only_the_files_that_it_shows(
    big: Api, odd: str, root: Path
) -> None:
    before = _stored(root)
    run = big.end(big.predict(odd, do="fail"))
    assert run["status"] == "failed"
    assert "missing.bin" in run["error"]
    assert len(_stored(root) - before) == len(_files(run["output"])) == 1
    _is_clean(big, root, run)


def test_a_canceled_prediction_leaves_only_the_files_that_it_shows(
    big: Api, odd: str, root: Path
) -> None:
    before = _stored(root)
    run = big.predict(odd, do="stop", seconds=1, prefer="")
    big.until(run, lambda run: bool(run["output"]))
    run = big.http.post(run["urls"]["cancel"]).json()
    assert run["status"] == "canceled"
    _finished(big, odd, do="nothing")  # then the model is free again
    assert len(_stored(root) - before) == 1
    _is_clean(big, root, run)


def _is_clean(api: Api, root: Path, run: dict[str, Any]) -> None:
    api.until(run, lambda _: not list((root / "workers").glob("*/outputs/*")))
    assert not list((root / "workers").glob("*/tmp/*"))
    assert not (LEFTOVERS / run["id"]).exists()


def test_inputs_that_were_fetched_for_nothing_are_removed(
    big: Api, root: Path, model_folder: ModelFolder
) -> None:
    version = big.server.push(model_folder(HEAD + READER), "acme/careless")
    there = big.upload(b"x" * 1000, "there [1].bin")["urls"]["get"]
    missing = f"{big.server.base_url}/nothing/here.bin"
    run = big.end(big.predict(version, first=there, second=missing))
    assert run["status"] == "failed"
    _is_clean(big, root, run)


def test_files_of_a_model_itself_are_not_taken_for_inputs_without_a_name(
    big: Api, model_folder: ModelFolder
) -> None:
    version = big.server.push(model_folder(HEAD + HOLDER), "acme/holder")
    assert big.end(big.predict(version, file=f"{big.server.base_url}/"))["status"] == "failed"
    assert big.predict(version, file="data:,x")["output"] is True


def test_a_file_that_the_disk_has_no_room_for_is_not_handed_over_in_part(tmp_path: Path) -> None:
    program = [sys.executable, "-c", FULL_DISK, handover.__file__, str(tmp_path)]
    assert subprocess.run(program, capture_output=True, text=True, check=False).stderr == ""
