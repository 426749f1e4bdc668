"""The example text model, run as plain Python: what it learns, and that it repeats itself."""

import functools
import http.server
import importlib
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("cog", reason="cog has no wheel for this platform")
np = pytest.importorskip("numpy")

MODEL = Path(__file__).parents[2] / "examples/models/text"
TRAIN_TEXT = (MODEL / "data/train.txt").read_text()
EXAMPLES = [
    json.loads(line)["input"] for line in (MODEL / "data/eval.jsonl").read_text().splitlines()
]
STEPS = 100
TRAIN = """
import json, sys
from cog import Path
from train import train
print(train(Path(sys.argv[1]), **json.loads(sys.argv[2])).weights)
"""


def fine_tune(text: Path, **inputs: float) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, as on Replicate; its last line is the path of the weights."""
    # The order of additions, and so the last bit, depends on the number of threads.
    one_thread = dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"], "1")
    folders = {"TMPDIR": str(text.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", TRAIN, text, json.dumps(inputs)],
        cwd=MODEL,
        env={**os.environ, **one_thread, **folders},
        capture_output=True,
        text=True,
        check=False,
    )


def weights_from(text: str, folder: Path, *, seed: int = 0) -> Path:
    path = folder / "training.txt"
    path.write_text(text)
    run = fine_tune(path, steps=STEPS, learning_rate=0.003, seed=seed)
    assert run.returncode == 0, run.stderr
    return Path(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def model() -> Iterator[SimpleNamespace]:
    """The folder's modules by their bare names, as Cog imports them.

    They are forgotten afterwards: every model folder has a predict.py.
    """
    names = ["charlm", "predict"]
    sys.path.insert(0, str(MODEL))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(MODEL))
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_from(TRAIN_TEXT, tmp_path_factory.mktemp("trained"))


def held_out_bits(model: SimpleNamespace, weights: Path) -> float:
    loaded = model.charlm.load(weights)
    return statistics.fmean(
        model.charlm.bits_per_character(loaded, example["prompt"], example["target"])
        for example in EXAMPLES
    )


def write(model: SimpleNamespace, weights: str | None = None, **inputs: Any) -> list[str]:
    predictor = model.predict.Predictor()
    predictor.setup(weights)
    defaults = {"prompt": "The flow", "target": "", "max_tokens": 60, "temperature": 0.8, "seed": 0}
    return list(predictor.predict(**{**defaults, **inputs}))


def test_the_base_weights_stay_small_enough_to_keep_in_the_repository() -> None:
    assert (MODEL / "base.npz").stat().st_size < 2_000_000


def test_no_held_out_target_has_forty_characters_in_a_row_from_the_training_text() -> None:
    for example in EXAMPLES:
        target = example["target"]
        assert len(target) >= 40
        assert not any(target[i : i + 40] in TRAIN_TEXT for i in range(len(target) - 39))


def test_the_gradients_are_the_slopes_of_the_loss(model: SimpleNamespace) -> None:
    charlm = model.charlm
    stored = charlm.load(MODEL / "base.npz")
    weights = {name: value.astype(np.float64) for name, value in stored.items()}
    data = charlm.encode("The flow runs.")
    batch = (weights, charlm.windows(data)[:-1], data)
    _, gradients = charlm.loss_and_gradients(*batch)
    small = 1e-5
    for name, gradient in gradients.items():
        steepest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        weights[name][steepest] += small
        above, _ = charlm.loss_and_gradients(*batch)
        weights[name][steepest] -= 2 * small
        below, _ = charlm.loss_and_gradients(*batch)
        weights[name][steepest] += small
        slope = (above - below) * math.log(2) / (2 * small)
        assert slope == pytest.approx(gradient[steepest], rel=1e-3), name


def test_bits_add_up_over_characters_of_several_bytes(model: SimpleNamespace) -> None:
    weights = model.charlm.load(MODEL / "base.npz")
    bits = functools.partial(model.charlm.bits_per_character, weights)
    # The surprise at both is that at the first, and then that at the second: over 2 characters.
    both = bits("caf", "é☕") * 2
    assert both == pytest.approx(bits("caf", "é") + bits("café", "☕"), rel=1e-5)


def test_a_short_fine_tuning_makes_held_out_text_less_surprising(
    model: SimpleNamespace, trained: Path
) -> None:
    assert held_out_bits(model, trained) < held_out_bits(model, MODEL / "base.npz") - 0.5


def test_fine_tuning_on_shuffled_characters_makes_held_out_text_more_surprising(
    model: SimpleNamespace, tmp_path: Path
) -> None:
    characters = list(TRAIN_TEXT)
    random.Random(0).shuffle(characters)  # noqa: S311 - a repeatable order, not a secret
    weights = weights_from("".join(characters), tmp_path)
    assert held_out_bits(model, weights) > held_out_bits(model, MODEL / "base.npz") + 0.3


def test_the_same_seed_trains_the_same_weights_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    assert weights_from(TRAIN_TEXT, tmp_path).read_bytes() == trained.read_bytes()


def test_another_seed_trains_other_weights(trained: Path, tmp_path: Path) -> None:
    assert weights_from(TRAIN_TEXT, tmp_path, seed=1).read_bytes() != trained.read_bytes()


def test_training_reports_progress_in_the_form_that_clients_parse(tmp_path: Path) -> None:
    text = tmp_path / "training.txt"
    text.write_text(TRAIN_TEXT)
    *lines, _ = fine_tune(text, steps=3, learning_rate=0.003, seed=0).stdout.splitlines()
    # The pattern of Replicate's Python client.
    progress = [re.match(r"^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)", line) for line in lines]
    assert [match and match.groups() for match in progress] == [
        ("33", "1", "3"),
        ("67", "2", "3"),
        ("100", "3", "3"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short: 0 bytes"),
        (b" \n" * 1000, "too short: 0 bytes"),
        (b"Let there be light.", "too short: 19 bytes"),
        (b"\xff\xfe" * 1000, "not UTF-8"),
    ],
)
def test_text_that_teaches_nothing_fails_and_says_why(
    tmp_path: Path, content: bytes, message: str
) -> None:
    text = tmp_path / "training.txt"
    text.write_bytes(content)
    run = fine_tune(text, steps=1, learning_rate=0.003, seed=0)
    assert run.returncode != 0
    assert message in run.stderr


def test_the_same_seed_writes_the_same_text_and_another_writes_another(
    model: SimpleNamespace,
) -> None:
    assert write(model) == write(model)
    assert write(model) != write(model, seed=1)


def test_temperature_zero_writes_the_likeliest_text_whatever_the_seed(
    model: SimpleNamespace,
) -> None:
    assert write(model, temperature=0) == write(model, temperature=0, seed=1)


def test_text_is_streamed_a_character_at_a_time(model: SimpleNamespace) -> None:
    assert [len(piece) for piece in write(model, max_tokens=30)] == [1] * 30


def test_weights_load_from_a_url_as_well_as_from_a_file(
    model: SimpleNamespace, trained: Path
) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(trained.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        from_url = write(model, f"http://127.0.0.1:{server.server_port}/{trained.name}")
        server.shutdown()
    assert from_url == write(model, str(trained))
    assert from_url != write(model)
