"""Keeping the outputs of real predictions."""

import json
from pathlib import Path

import fsspec
import pytest

from prefect_replicate import (
    BadInputError,
    LocalReplicate,
    OutputsExpired,
    OutputStorage,
    ReplicateCredentials,
    asave_outputs,
    run_model,
    save_outputs,
)


def test_text_is_kept_with_a_manifest(
    credentials: ReplicateCredentials, tiny_model: str, tmp_path: Path
) -> None:
    prediction = run_model(tiny_model, {"text": "kept"}, credentials=credentials)
    saved = save_outputs(prediction, tmp_path)
    assert Path(saved.files[0].uri).read_text() == "kept"
    manifest = json.loads(Path(saved.manifest).read_text())
    assert manifest["id"] == prediction.id == saved.job_id
    assert manifest["input"] == {"text": "kept"}


FILES = """
import tempfile

from cog import BasePredictor, Path


class Predictor(BasePredictor):
    def predict(self, names: list[str]) -> list[Path]:
        folder = Path(tempfile.mkdtemp())
        for name in names:
            (folder / name).write_text("this is " + name)
        return [folder / name for name in names]
"""


def test_a_models_files_are_kept_as_they_are_and_in_their_order(
    replicate: LocalReplicate, credentials: ReplicateCredentials, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "cog.yaml").write_text(
        'build: {python_version: "3.11"}\npredict: predict.py:Predictor\n'
    )
    (folder / "predict.py").write_text(FILES)
    model = replicate.push(folder, "local/files")
    names = ["c.txt", "a.md", "b.txt"]
    prediction = run_model(model, {"names": names}, credentials=credentials)
    assert all(url.startswith(replicate.base_url) for url in prediction.output)
    saved = save_outputs(prediction, tmp_path)
    assert [file.name for file in saved.files] == ["output-0.txt", "output-1.md", "output-2.txt"]
    assert [Path(file.uri).read_text() for file in saved.files] == [f"this is {n}" for n in names]


async def test_storage_may_be_a_block(credentials: ReplicateCredentials, tiny_model: str) -> None:
    prediction = run_model(tiny_model, {"text": "kept"}, credentials=credentials)
    block = OutputStorage(url="memory://by-block")
    saved = await asave_outputs(prediction, block)
    with fsspec.open(saved.files[0].uri) as file:
        assert file.read() == b"kept"


def test_what_cannot_be_kept_is_said_and_leaves_nothing(
    credentials: ReplicateCredentials, tiny_model: str, tmp_path: Path
) -> None:
    prediction = run_model(tiny_model, {"text": "kept"}, credentials=credentials)
    with pytest.raises(BadInputError, match="nothing://here"):
        save_outputs(prediction, "nothing://here")
    with pytest.raises(BadInputError, match="is 'processing', so its outputs are not all there"):
        save_outputs(prediction.model_copy(update={"status": "processing"}), tmp_path)
    gone = prediction.model_copy(update={"data_removed": True, "output": None})
    with pytest.raises(OutputsExpired, match=prediction.id):
        save_outputs(gone, tmp_path)
    assert list(tmp_path.iterdir()) == []
