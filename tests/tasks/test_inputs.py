"""Files in the inputs of tasks: they reach the model whole, and are uploaded once."""

import asyncio
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import httpx
import pytest
from prefect import flow

from prefect_replicate import (
    BadInputError,
    LocalReplicate,
    ModelError,
    Prediction,
    ReplicateCredentials,
    acreate_training,
    arun_model,
    await_for_training,
    create_prediction,
    ensure_model,
    evaluate_model,
    get_prediction,
    list_files,
    release_deployment,
    run_model,
    save_outputs,
    train_model,
    upload_file,
)
from tests.tasks.conftest import jobs

SEES = """
import hashlib

from cog import BasePredictor, Input, Path

tried = set()


def seen(file):
    content = file.read_bytes()
    return [len(content), hashlib.sha256(content).hexdigest()]


class Predictor(BasePredictor):
    def predict(
        self,
        image: Path | None = Input(default=None),
        images: list[Path] = Input(default=[]),
        text: str = Input(default=""),
        trip: str = Input(default=""),
    ) -> dict:
        if trip and trip not in tried:
            tried.add(trip)
            raise RuntimeError("E8765 health check failed")
        self.record_metric("files", len(images))
        return {
            "image": seen(image) if image else None,
            "images": [seen(file) for file in images],
            "text": text,
        }
"""
COPIES = """
from cog import BasePredictor, Path


class Predictor(BasePredictor):
    def predict(self, image: Path) -> Path:
        made = Path("copy.png")
        made.write_bytes(image.read_bytes())
        return made
"""


@pytest.fixture(scope="module")
def sees(replicate: LocalReplicate, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that says what files it got."""
    return _push(replicate, tmp_path_factory.mktemp("sees"), "local/sees", SEES)


@pytest.fixture(scope="module")
def copies(replicate: LocalReplicate, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose output is the file that it got."""
    return _push(replicate, tmp_path_factory.mktemp("copies"), "local/copies", COPIES)


def _push(replicate: LocalReplicate, folder: Path, name: str, predict: str) -> str:
    (folder / "cog.yaml").write_text("predict: predict.py:Predictor\n")
    (folder / "predict.py").write_text(predict)
    return replicate.push(folder, name)


def what(content: bytes) -> list[object]:
    """As the model says it."""
    return [len(content), hashlib.sha256(content).hexdigest()]


def uploads(replicate: LocalReplicate) -> int:
    """How many files Local Replicate has, as any client would count them."""
    count, page = 0, f"{replicate.base_url}/v1/files"
    while page:
        answer = httpx.get(page, headers={"Authorization": f"Bearer {replicate.token}"})
        count += len(answer.raise_for_status().json()["results"])
        page = answer.json()["next"]
    return count


@pytest.fixture
def big() -> bytes:
    """More than goes inline, and never seen before."""
    return os.urandom(300_000)


@pytest.fixture
def memory(big: bytes) -> Iterator[str]:
    with fsspec.open("memory://given/big.png", "wb") as file:
        file.write(big)
    yield "memory://given/big.png"
    fsspec.filesystem("memory").rm("/given", recursive=True)


def test_a_sync_flow_passes_files_of_every_kind(
    credentials: ReplicateCredentials,
    sees: str,
    replicate: LocalReplicate,
    tmp_path: Path,
    big: bytes,
    memory: str,
) -> None:
    small = b"small"
    (tmp_path / "big.png").write_bytes(big)
    (tmp_path / "small.png").write_bytes(small)
    before = uploads(replicate)

    @flow
    def look() -> list[Prediction]:
        every = [tmp_path / "small.png", small, io.BytesIO(small), memory, tmp_path / "big.png"]
        with (tmp_path / "big.png").open("rb") as opened:
            direct = run_model(
                sees, {"image": opened, "images": every, "text": "t"}, credentials=credentials
            )
            submitted = [
                run_model.submit(sees, {"image": given, "images": [given]}, credentials=credentials)
                for given in (tmp_path / "big.png", big, io.BytesIO(big), opened, memory)
            ]
            return [direct, *(one.result() for one in submitted)]

    direct, *submitted = look()
    assert direct.output == {
        "image": what(big),
        "images": [what(small)] * 3 + [what(big)] * 2,
        "text": "t",
    }
    for prediction in submitted:
        assert prediction.output == {"image": what(big), "images": [what(big)], "text": ""}
    # Once as big.png, and once without a name.
    assert uploads(replicate) - before == 2


async def test_an_async_flow_passes_files_and_submits_them(
    credentials: ReplicateCredentials, sees: str, tmp_path: Path, big: bytes
) -> None:
    (tmp_path / "big.png").write_bytes(big)

    @flow
    async def look() -> list[Prediction]:
        given = [tmp_path / "big.png", big, io.BytesIO(big)]
        inputs: list[dict[str, Any]] = [{"image": one} for one in given]
        waiting = [arun_model.submit(sees, one, credentials=credentials) for one in inputs]
        direct = await asyncio.gather(
            *(arun_model(sees, one, credentials=credentials) for one in inputs)
        )
        return [*direct, *[one.result() for one in waiting]]  # type: ignore[list-item] # Prefect types the result as the coroutine

    assert [one.output["image"] for one in await look()] == [what(big)] * 6


def test_a_retry_uploads_nothing_again(
    credentials: ReplicateCredentials, sees: str, replicate: LocalReplicate, big: bytes
) -> None:
    before, made = uploads(replicate), len(jobs(replicate))
    stream = io.BytesIO(b"skip" + big)
    stream.seek(4)
    given = {"image": stream, "trip": uuid4().hex}
    done = run_model.with_options(retries=2, retry_delay_seconds=0)(
        sees, given, credentials=credentials
    )
    assert done.output["image"] == what(big)
    assert (uploads(replicate) - before, len(jobs(replicate)) - made) == (1, 2)


def test_a_file_that_was_deleted_is_uploaded_again(
    credentials: ReplicateCredentials, sees: str, replicate: LocalReplicate, big: bytes
) -> None:
    first = create_prediction(sees, {"image": big}, credentials=credentials)
    again = create_prediction(sees, {"image": big}, credentials=credentials)
    assert first.input == again.input
    httpx.delete(
        first.input["image"], headers={"Authorization": f"Bearer {replicate.token}"}
    ).raise_for_status()
    third = run_model(sees, {"image": big}, credentials=credentials)
    assert third.input != first.input
    assert third.output["image"] == what(big)


async def test_many_predictions_with_one_picture_upload_it_once(
    credentials: ReplicateCredentials, sees: str, replicate: LocalReplicate, big: bytes
) -> None:
    before = await asyncio.to_thread(uploads, replicate)
    runs = [
        arun_model(sees, {"image": big, "text": str(number)}, credentials=credentials)
        for number in range(20)
    ]
    done = await asyncio.gather(*runs)
    assert [one.output["image"] for one in done] == [what(big)] * 20
    assert await asyncio.to_thread(uploads, replicate) - before == 1


def test_what_one_model_made_another_takes(
    credentials: ReplicateCredentials, sees: str, copies: str, tmp_path: Path, big: bytes
) -> None:
    made = run_model(copies, {"image": big}, credentials=credentials)
    file = save_outputs(made, tmp_path).files[0]
    uploaded = upload_file(Path(file.uri), credentials=credentials)
    images = [made.output, file, uploaded, uploaded.urls.get]
    seen = run_model(sees, {"images": images}, credentials=credentials)
    assert seen.output["images"] == [what(big)] * 4


@pytest.mark.parametrize("by", ["model", "version", "deployment"])
def test_text_that_looks_like_a_url_stays_text_where_the_schema_says_so(
    credentials: ReplicateCredentials, sees: str, replicate: LocalReplicate, by: str
) -> None:
    secret = "file:///etc/hostname"
    where: dict[str, Any] = {"ref": sees if by == "version" else sees.partition(":")[0]}
    if by == "deployment":
        release_deployment("sees", sees, "cpu", credentials=credentials)
        where = {"deployment": "local/sees"}
    before = uploads(replicate)
    done = run_model(**where, input={"text": secret}, credentials=credentials)
    assert done.output["text"] == secret
    assert uploads(replicate) == before
    # The id of a version by itself does not say which model to ask for the schema.
    bare = create_prediction(
        sees.partition(":")[2], {"text": Path("/etc/hostname").as_uri()}, credentials=credentials
    )
    assert bare.input["text"].startswith("data:")


def test_a_plain_string_never_names_a_file_of_this_machine(
    credentials: ReplicateCredentials, sees: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    path = str(tmp_path / "mine.txt")
    with pytest.raises(BadInputError):
        run_model(sees, {"image": path}, credentials=credentials)
    done = run_model(sees, {"text": path}, credentials=credentials)
    assert done.output["text"] == path


def test_a_file_that_is_not_there_makes_no_job(
    credentials: ReplicateCredentials, sees: str, replicate: LocalReplicate, tmp_path: Path
) -> None:
    before = len(jobs(replicate)), uploads(replicate)
    given = {"images": [os.urandom(300_000), tmp_path / "absent.png"]}
    with pytest.raises(BadInputError, match=r"input\.images\[1\].*absent\.png") as caught:
        run_model(sees, given, credentials=credentials)
    assert "Nothing was sent" in str(caught.value)
    assert (len(jobs(replicate)), uploads(replicate)) == before


async def test_a_training_takes_files(
    credentials: ReplicateCredentials, tiny_model: str, tmp_path: Path, memory: str, big: bytes
) -> None:
    (tmp_path / "data.txt").write_bytes(b"some training data")
    model = await asyncio.to_thread(ensure_model, "local/given", credentials=credentials)
    destination = f"{model.owner}/{model.name}"
    done = await asyncio.to_thread(
        train_model,
        tiny_model,
        destination,
        {"training_data": tmp_path / "data.txt"},
        credentials=credentials,
    )
    assert "training on 18 bytes" in done.logs
    started = await acreate_training(
        tiny_model, destination, {"training_data": memory}, credentials=credentials
    )
    ended = await await_for_training(started, credentials=credentials)
    assert f"training on {len(big)} bytes" in ended.logs


def test_examples_may_hold_files(
    credentials: ReplicateCredentials,
    sees: str,
    replicate: LocalReplicate,
    tmp_path: Path,
    big: bytes,
) -> None:
    (tmp_path / "big.png").write_bytes(big)
    before = uploads(replicate)
    examples = [{"input": {"images": [tmp_path / "big.png"] * count}} for count in (1, 3)]
    scored = evaluate_model(sees, examples, "highest:files", credentials=credentials)
    assert scored.score == 2.0  # (1 + 3) / 2
    seen = get_prediction(scored.scores[1].prediction_id, credentials=credentials)
    assert seen.output["images"] == [what(big)] * 3
    assert uploads(replicate) - before == 1


def test_an_upload_has_the_files_name_and_type(
    credentials: ReplicateCredentials, sees: str, tmp_path: Path, big: bytes
) -> None:
    (tmp_path / "named.webp").write_bytes(big)
    done = run_model(sees, {"image": tmp_path / "named.webp"}, credentials=credentials)
    file = next(one for one in list_files(credentials=credentials) if one.name == "named.webp")
    assert (file.content_type, file.size, file.urls.get) == (
        "image/webp",
        len(big),
        done.input["image"],
    )


def test_the_models_own_failure_is_not_the_files_fault(
    credentials: ReplicateCredentials, sees: str, replicate: LocalReplicate, big: bytes
) -> None:
    before = uploads(replicate)
    with pytest.raises(ModelError, match="E8765"):
        run_model(sees, {"image": big, "trip": uuid4().hex}, credentials=credentials)
    assert uploads(replicate) - before == 1
