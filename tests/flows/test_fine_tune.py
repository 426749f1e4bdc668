"""The main job, as a newcomer runs it: the command in a process of its own, then its judgement."""

import base64
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.artifacts import Artifact
from prefect.settings import get_current_settings

from flows.fine_tune import fine_tune
from prefect_replicate import LocalReplicate, ReplicateCredentials
from tests.conftest import ROOT, TEXT_MODEL

DATA = TEXT_MODEL / "data"
SCRIPT = ROOT / "flows" / "fine_tune.py"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command with these arguments in an empty folder, and wait for its end."""

    def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SCRIPT, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PREFECT_HOME": str(tmp_path / "home"), **environment},
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
            start_new_session=True,
        )

    return command


def _on_the_sessions_server() -> dict[str, str]:
    return {"PREFECT_API_URL": get_current_settings().api.url or ""}


def _living(marker: str) -> list[str]:
    """Command lines of the processes whose environment has the marker."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_the_command_works_in_an_empty_home_and_ignores_a_token_that_lies_around(
    run: Run, tmp_path: Path, unused_tcp_port: int
) -> None:
    # Anything sent to this token's API would fail: nothing listens there.
    done = run(
        REPLICATE_API_TOKEN="r8_a_token_with_money_on_it",
        REPLICATE_BASE_URL=f"http://127.0.0.1:{unused_tcp_port}",
        PREFECT_RESULTS_PERSIST_BY_DEFAULT="true",
    )
    assert done.returncode == 0, done.stderr
    scores = re.search(r"bits_per_character +([\d.]+) +([\d.]+)", done.stdout)
    assert scores, done.stdout
    assert float(scores[2]) < float(scores[1]) - 0.5
    assert "better, released" in done.stdout
    manifests = re.findall(r"manifest \w+ +(\S+)", done.stdout)
    texts = {(tmp_path / one).with_name("output.txt").read_text() for one in manifests}
    assert (len(manifests), len(texts)) == (2, 2)  # Before and after, and they differ.
    assert _living(str(tmp_path / "home")) == []
    # Neither that token is anywhere, nor Local Replicate's, which was a parameter of the flow.
    kept = [_decoded(path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()]
    for text in [done.stdout, done.stderr, *kept]:
        assert "r8_a_token_with_money_on_it" not in text
        assert "r8_local_" not in text


def test_pictures_get_better_too(run: Run, prefect_server: None, tmp_path: Path) -> None:
    done = run("--model", "image", "--training-input", "steps=60", **_on_the_sessions_server())
    assert done.returncode == 0, done.stderr
    scores = re.search(r"denoising_error +([\d.]+) +([\d.]+)", done.stdout)
    assert scores, done.stdout
    assert float(scores[2]) < float(scores[1]) - 5
    made = re.findall(r"made \w+ +(\S+\.png)", done.stdout)
    pictures = {(tmp_path / one).read_bytes() for one in made}
    assert len(pictures) == 2
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    # The page in Prefect's UI shows both, small.
    report: Any = Artifact.get("fine-tune")
    page = str(report.data)
    thumbnails = re.findall(r"!\[[\w.-]+\]\(data:image/webp;base64,([\w+/=]+)\)", page)
    assert len(set(thumbnails)) == 2
    assert all(len(thumbnail) < 20_000 for thumbnail in thumbnails)
    assert f"| {float(scores[1]):.3f} | {float(scores[2]):.3f} |" in page


def test_live_is_the_same_flow_and_leaves_the_token_nowhere(
    run: Run, tmp_path: Path, replicate: LocalReplicate, text_model: str
) -> None:
    done = run(
        *("--live", "--base-version", text_model, "--destination", "local/live-tuned"),
        *("--training-data", str(DATA / "train.txt"), "--training-input", "steps=60", "seed=3"),
        *("--deployment", "live", "--hardware", "cpu", "--eval-data", str(DATA / "eval.jsonl")),
        *("--scorer", "lowest:bits_per_character", "--storage", "kept"),
        REPLICATE_API_TOKEN=replicate.token,
        REPLICATE_BASE_URL=f"{replicate.base_url}/v1",
        PREFECT_RESULTS_PERSIST_BY_DEFAULT="true",
    )
    assert done.returncode == 0, done.stderr
    assert "local/live, release 1: local/live-tuned:" in done.stdout
    assert replicate.token not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    # Among them are Prefect's database and the results of the tasks.
    assert any(path.suffix == ".db" for path in files)
    results = [path.read_bytes() for path in files if "storage" in path.parts]
    assert any("bits_per_character" in _decoded(result) for result in results)
    assert [path for path in files if replicate.token in _decoded(path.read_bytes())] == []
    assert list(tmp_path.glob("kept/*/manifest.json"))


def _decoded(content: bytes) -> str:
    """A file's text, and that of everything in it that may be base64, as Prefect's results are."""
    inside = [
        base64.b64decode(found + b"=" * (-len(found) % 4))
        for found in re.findall(rb"[A-Za-z0-9+/]{24,}", content.replace(b"\\n", b""))
        if len(found) % 4 != 1
    ]
    return b"\n".join([content, *inside]).decode(errors="replace")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--training-data", "missing.txt"], "BadInputError: Cannot read 'missing.txt'"),
        (["--storage", "nothing://x"], "BadInputError: Cannot write to the storage 'nothing://x'"),
        (["--scorer", "best"], "BadInputError: There is no scorer 'best'"),
        (["--base-version", "local/text"], "BadReferenceError: 'local/text' names no version"),
        (["--deployment", "my deployment"], "BadReferenceError: 'own/my deployment'"),
        (["--hardware", "gpu-typo"], "BadInputError: There is no hardware 'gpu-typo'"),
        (["--training-input", "steps=0"], "BadInputError: http"),
        (["--training-input", "steps"], "'steps' is not KEY=VALUE"),
        (["--live", "--scorer", "similarity"], "also give --base-version, --destination"),
        (["--live", "--model", "text"], "with --live there is none"),
    ],
)
def test_bad_input_is_answered_on_one_screen(
    run: Run, prefect_server: None, tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = run(*arguments, **_on_the_sessions_server())
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).splitlines()) < 25
    assert not list(tmp_path.glob("outputs/*"))


LIVE = [
    *("--live", "--base-version", "a/b:" + "0" * 64, "--destination", "a/b"),
    *("--training-data", str(DATA / "train.txt"), "--deployment", "x", "--hardware", "cpu"),
    *("--eval-data", str(DATA / "eval.jsonl"), "--scorer", "lowest:bits_per_character"),
]


def test_a_wrong_token_is_answered_on_one_screen(
    run: Run, prefect_server: None, replicate: LocalReplicate
) -> None:
    done = run(
        *LIVE,
        **_on_the_sessions_server(),
        REPLICATE_API_TOKEN="r8_wrong",
        REPLICATE_BASE_URL=replicate.base_url,
    )
    assert done.returncode == 1
    assert "AuthenticationError" in done.stderr
    assert "Traceback" not in done.stderr
    assert "r8_wrong" not in done.stdout + done.stderr


def test_live_without_a_token_says_how_to_make_one(run: Run, prefect_server: None) -> None:
    done = run(*LIVE, **_on_the_sessions_server())
    assert done.returncode == 1
    assert "ConfigurationError: No Replicate credentials" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_version_trained_on_noise_is_not_released(
    prefect_server: None,
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    text_model: str,
    tmp_path: Path,
) -> None:
    text = list((DATA / "train.txt").read_text())
    random.Random(0).shuffle(text)  # noqa: S311 - it makes noise, not secrets
    noise = tmp_path / "noise.txt"
    noise.write_text("".join(text))
    done = fine_tune(
        base_version=text_model,
        destination="local/noise",
        training_data=str(noise),
        training_input={"steps": 150},
        eval_data=str(DATA / "eval.jsonl"),
        scorer="lowest:bits_per_character",
        deployment="noise",
        storage=str(tmp_path / "outputs"),
        credentials=credentials,
    )
    assert done.after.score > done.before.score
    assert (done.improved, done.released) == (False, text_model)
    release = httpx.get(
        f"{replicate.base_url}/v1/deployments/local/noise",
        headers={"Authorization": f"Bearer {replicate.token}"},
    ).json()["current_release"]
    assert f"{release['model']}:{release['version']}" == text_model
    # The scores are predictions that anybody can read again.
    prediction = httpx.get(
        f"{replicate.base_url}/v1/predictions/{done.after.scores[0].prediction_id}",
        headers={"Authorization": f"Bearer {replicate.token}"},
    ).json()
    assert prediction["metrics"]["bits_per_character"] == done.after.scores[0].value
