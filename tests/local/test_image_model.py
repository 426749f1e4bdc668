"""The example image model, as plain Python and served: what it learns, takes and gives."""

import base64
import functools
import http.server
import importlib
import io
import json
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from prefect_replicate.local import LocalReplicate
from tests.local.conftest import Api

pytest.importorskip("cog", reason="cog has no wheel for this platform")
np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

MODEL = Path(__file__).parents[2] / "examples/models/image"
TRAIN_ZIP = MODEL / "data/train.zip"
EXAMPLES = [
    json.loads(line)["input"] for line in (MODEL / "data/eval.jsonl").read_text().splitlines()
]
STEPS = 50
TRAIN = """
import json, sys
from cog import Path
from train import train
print(train(Path(sys.argv[1]), **json.loads(sys.argv[2])).weights)
"""


def fine_tune(data: Path, folder: Path, **inputs: float) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, as on Replicate; its last line is the path of the weights."""
    # The order of additions, and so the last bit, depends on the number of threads.
    one_thread = dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"], "1")
    folders = {"TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    inputs = {"steps": STEPS, "learning_rate": 0.001, "seed": 0} | inputs
    return subprocess.run(
        [sys.executable, "-c", TRAIN, data, json.dumps(inputs)],
        cwd=MODEL,
        env={**os.environ, **one_thread, **folders},
        capture_output=True,
        text=True,
        check=False,
    )


def weights_from(data: Path, folder: Path, *, seed: int = 0) -> Path:
    run = fine_tune(data, folder, seed=seed)
    assert run.returncode == 0, run.stderr
    return Path(run.stdout.splitlines()[-1])


def png(color: str = "red", size: tuple[int, int] = (20, 20), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def held_out_zip(example: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(example["reference"].partition(",")[2]))


def contents(archive: Path | io.BytesIO) -> set[bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {opened.read(name) for name in opened.namelist()}


@pytest.fixture(scope="module")
def model() -> Iterator[SimpleNamespace]:
    """The folder's modules by their bare names, as Cog imports them.

    They are forgotten afterwards: every model folder has a predict.py.
    """
    names = ["pixflow", "pictures", "predict"]
    sys.path.insert(0, str(MODEL))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(MODEL))
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_from(TRAIN_ZIP, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def read(model: SimpleNamespace, tmp_path: Path) -> Any:
    """Read a zip of these files as training data, at least two of them."""

    def files(files: dict[str, bytes]) -> Any:
        return model.pictures.read_zip(pack(tmp_path / "files.zip", files), name="data", least=2)

    return files


def held_out_error(model: SimpleNamespace, weights: Path) -> float:
    loaded = model.pixflow.load(weights)
    return statistics.fmean(
        model.pixflow.denoising_error(
            loaded, model.pictures.read_zip(held_out_zip(example), name="reference", least=1)
        )
        for example in EXAMPLES
    )


def paint(model: SimpleNamespace, weights: str | None = None, **inputs: Any) -> list[bytes]:
    predictor = model.predict.Predictor()
    predictor.setup(weights)
    defaults = {"seed": 0, "count": 2, "steps": 8, "scale": 8, "sheet": False, "reference": None}
    return [path.read_bytes() for path in predictor.predict(**{**defaults, **inputs})]


def pixels(file: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(file)))


def test_the_base_weights_stay_small_enough_to_keep_in_the_repository() -> None:
    assert (MODEL / "base.npz").stat().st_size < 2_000_000


def test_no_held_out_image_is_among_the_training_images_or_held_out_twice() -> None:
    train = contents(TRAIN_ZIP)
    held_out = [file for example in EXAMPLES for file in contents(held_out_zip(example))]
    assert len(train) == 40
    assert len(held_out) == len(set(held_out)) == 56
    assert not train & set(held_out)


def test_the_gradients_are_the_slopes_of_the_loss(model: SimpleNamespace) -> None:
    pixflow = model.pixflow
    rng = np.random.default_rng(0)
    stored = pixflow.load(MODEL / "base.npz")
    weights = {name: value.astype(np.float64) for name, value in stored.items()}
    pictures, noise = rng.standard_normal((2, 3, pixflow.PIXELS))
    batch = (weights, pictures, noise, np.array([0.1, 0.5, 0.9]))
    _, gradients = pixflow.loss_and_gradients(*batch)
    assert gradients.keys() == weights.keys()
    small = 1e-6
    for name, gradient in gradients.items():
        steepest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        weights[name][steepest] += small
        above, _ = pixflow.loss_and_gradients(*batch)
        weights[name][steepest] -= 2 * small
        below, _ = pixflow.loss_and_gradients(*batch)
        weights[name][steepest] += small
        assert (above - below) / (2 * small) == pytest.approx(gradient[steepest], rel=1e-3), name


def test_a_model_that_sees_only_white_is_off_by_the_distance_from_white(
    model: SimpleNamespace,
) -> None:
    pixflow = model.pixflow
    weights = pixflow.load(MODEL / "base.npz")
    blind = {name: np.zeros_like(value) for name, value in weights.items()}
    blind["out_bias"] += 1
    pictures = np.stack([np.full(pixflow.PIXELS, level, np.float32) for level in (1, -1)])
    # Off by 0 in one and by 255 in the other: the root of the mean of 0 and 255 squared.
    assert pixflow.denoising_error(blind, pictures) == pytest.approx(255 / math.sqrt(2))


def test_a_short_fine_tuning_makes_held_out_images_out_better(
    model: SimpleNamespace, trained: Path
) -> None:
    assert held_out_error(model, trained) < held_out_error(model, MODEL / "base.npz") * 0.7


def test_fine_tuning_on_negatives_makes_held_out_images_out_worse(
    model: SimpleNamespace, tmp_path: Path
) -> None:
    negatives = {}
    for number, file in enumerate(sorted(contents(TRAIN_ZIP))):
        buffer = io.BytesIO()
        Image.fromarray(255 - pixels(file)).save(buffer, "PNG")
        negatives[f"{number}.png"] = buffer.getvalue()
    weights = weights_from(pack(tmp_path / "negatives.zip", negatives), tmp_path)
    assert held_out_error(model, weights) > held_out_error(model, MODEL / "base.npz") * 1.2


def test_the_same_seed_trains_the_same_weights_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    assert weights_from(TRAIN_ZIP, tmp_path).read_bytes() == trained.read_bytes()


def test_another_seed_trains_other_weights(trained: Path, tmp_path: Path) -> None:
    assert weights_from(TRAIN_ZIP, tmp_path, seed=1).read_bytes() != trained.read_bytes()


def test_training_reports_progress_in_the_form_that_clients_parse(tmp_path: Path) -> None:
    first, *lines, _ = fine_tune(TRAIN_ZIP, tmp_path, steps=3).stdout.splitlines()
    assert first == "40 images"
    # The pattern of Replicate's Python client.
    progress = [re.match(r"^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)", line) for line in lines]
    assert [match and match.groups() for match in progress] == [
        ("33", "1", "3"),
        ("67", "2", "3"),
        ("100", "3", "3"),
    ]


def test_a_training_without_images_fails_and_says_why(tmp_path: Path) -> None:
    run = fine_tune(pack(tmp_path / "texts.zip", {"a.txt": b"a"}), tmp_path)
    assert run.returncode != 0
    assert "ValueError: training_data has 0 images (.png, .jpg, .jpeg, .gif, .webp), " in run.stderr


def test_what_is_no_zip_is_refused(model: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "data.png"
    path.write_bytes(png())
    with pytest.raises(ValueError, match="data is not a zip file"):
        model.pictures.read_zip(path, name="data", least=1)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"not an image", "cannot read 'bad.png': cannot identify image file"),
        (png()[:-30], "cannot read 'bad.png'"),
        (png(size=(5000, 5000), mode="1", color="white"), "5000x5000 pixels, at most 20,000,000"),
        (b"\0" * 200_000_001, "unpacks to 200,000,0.. bytes of images, at most 200,000,000"),
    ],
    ids=["no image", "cut off", "large once decoded", "large once unpacked"],
)
def test_an_image_that_cannot_be_used_is_refused_by_name(
    read: Any, file: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read({"good.png": png(), "bad.png": file})


def test_an_encrypted_image_is_refused(model: SimpleNamespace, tmp_path: Path) -> None:
    path = pack(tmp_path / "locked.zip", {"locked.png": png()})
    data = bytearray(path.read_bytes())
    # The flag of encryption, in the file's own header and in the archive's list.
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot read 'locked\.png': .*password"):
        model.pictures.read_zip(path, name="data", least=1)


def test_only_the_images_of_a_zip_are_read(read: Any) -> None:
    images = {"a/red.PNG": png(), "blue.png": png("blue")}
    others = {
        "README.txt": b"hello",
        "__MACOSX/a/._red.PNG": b"left by a file manager",
        "folder.png/": b"",
    }
    np.testing.assert_array_equal(read(others | images), read(images))
    assert len(read(images)) == 2


def test_paths_that_climb_out_of_the_archive_write_nothing(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    files = {"../climbed.png": png(), f"{tmp_path}/absolute.png": png(), "plain.png": png()}
    assert len(read(files)) == 3
    assert sorted(tmp_path.rglob("*")) == [below, tmp_path / "files.zip"]


def test_images_of_any_form_become_squares_on_white(model: SimpleNamespace, read: Any) -> None:
    wide, clear, gray, tiny = read(
        {
            "wide.png": png("red", (64, 32)),
            "clear.png": png("#ff000000", mode="RGBA"),
            "gray.png": png("black", (300, 300), mode="L"),
            "tiny.png": png("blue", (1, 1)),
        }
    )
    seen = [np.asarray(model.pictures.to_image(picture)) for picture in (wide, clear, gray, tiny)]
    white, red = [255, 255, 255], [255, 0, 0]
    # Half as high as wide: 8 rows of 16, between 4 and 4.
    expected = [white] * 4 + [red] * 8 + [white] * 4
    assert seen[0][:, 0].tolist() == seen[0][:, 15].tolist() == expected
    assert [picture.reshape(-1, 3).min(0).tolist() for picture in seen[1:]] == [
        white,
        [0, 0, 0],
        [0, 0, 255],
    ]


def test_the_same_seed_paints_the_same_files_and_another_paints_others(
    model: SimpleNamespace,
) -> None:
    assert paint(model) == paint(model)
    assert paint(model) != paint(model, seed=1)


def test_the_first_sprites_do_not_depend_on_how_many_follow(model: SimpleNamespace) -> None:
    for few, many in zip(paint(model), paint(model, count=16)[:2], strict=True):
        # Larger matrices may be added up in another order.
        np.testing.assert_allclose(pixels(few).astype(int), pixels(many), atol=1)


def test_each_pixel_of_a_sprite_is_a_square_of_the_scale(model: SimpleNamespace) -> None:
    small, large = (pixels(paint(model, scale=scale)[0]) for scale in (1, 8))
    assert small.shape == (16, 16, 3)
    np.testing.assert_array_equal(large, small.repeat(8, axis=0).repeat(8, axis=1))


def test_a_sheet_shows_the_same_sprites_row_by_row(model: SimpleNamespace) -> None:
    sprites = [pixels(file) for file in paint(model, count=3, scale=1)]
    (file,) = paint(model, count=3, scale=1, sheet=True)
    sheet = pixels(file)
    # Two rows and two columns of 16 pixels, with a white line around each.
    assert sheet.shape == (35, 35, 3)
    shown = [sheet[y : y + 16, x : x + 16] for y, x in [(1, 1), (1, 18), (18, 1), (18, 18)]]
    np.testing.assert_array_equal(shown[:3], sprites)
    assert shown[3].min() == 255


def test_weights_load_from_a_url_as_well_as_from_a_file(
    model: SimpleNamespace, trained: Path
) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(trained.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        from_url = paint(model, f"http://127.0.0.1:{server.server_port}/{trained.name}")
        server.shutdown()
    assert from_url == paint(model, str(trained))
    assert from_url != paint(model)


def test_served_it_learns_and_gives_its_files_in_order(
    api: Api, server: LocalReplicate, model: SimpleNamespace
) -> None:
    version = server.push(MODEL, "acme/sprites")
    api.model("local", "smileys")
    data = api.upload(TRAIN_ZIP.read_bytes())["urls"]["get"]
    training = api.end(api.train(version, "local/smileys", training_data=data, steps=40).json())
    assert training["status"] == "succeeded", training["error"]
    example = EXAMPLES[0] | {"count": 16, "scale": 1}
    before, after = (
        api.predict(served, **example) for served in (version, training["output"]["version"])
    )
    assert after["metrics"]["denoising_error"] < before["metrics"]["denoising_error"] * 0.8
    files = [httpx.get(url).content for url in before["output"]]
    assert [Image.open(io.BytesIO(file)).format for file in files] == ["PNG"] * 16
    for file, painted in zip(files, paint(model, count=16, scale=1, steps=32), strict=True):
        np.testing.assert_allclose(pixels(file).astype(int), pixels(painted), atol=1)
