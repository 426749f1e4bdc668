"""What of an output is kept, and under which name."""

import json
from typing import Any

import pytest

from prefect_replicate.api.errors import BadInputError
from prefect_replicate.outputs.files import OutputFile, plan

API = "http://127.0.0.1:8777/v1"
PNG = "https://replicate.delivery/xezq/abc/out.png"
WAV = "https://tjzk.replicate.delivery/models/x/sound.wav?sig=1"
LOCAL = "http://127.0.0.1:8777/delivery/1/output.txt"
DATA = "data:image/png;base64,aGk="


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (PNG, {"output.png": PNG}),
        (LOCAL, {"output.txt": LOCAL}),
        (DATA, {"output.png": DATA}),
        ("data:;base64,aGk=", {"output": "data:;base64,aGk="}),
        ({"a b": PNG, "a_b": WAV}, {"output-a_b.png": PNG, "output-a_b.wav": WAV}),
        ({"a b": PNG, "A_b": f"{PNG}?2"}, {"output-a_b.png": PNG, "output-A_b-2.png": f"{PNG}?2"}),
        ([PNG, WAV], {"output-0.png": PNG, "output-1.wav": WAV}),
        ({"mask": PNG, "n": 1}, {"output-mask.png": PNG}),
        ({"../../etc": PNG}, {"output-.._.._etc.png": PNG}),
        ([[PNG]], {"output-0-0.png": PNG}),
        (
            "https://replicate.delivery/x/a.b/../../c",
            {"output": "https://replicate.delivery/x/a.b/../../c"},
        ),
    ],
)
def test_files_are_found_anywhere_and_named_by_their_place(
    output: Any, names: dict[str, str]
) -> None:
    assert {file.name: file.url for file in plan(output, API).files} == names


@pytest.mark.parametrize(
    "said",
    [
        "https://example.com/picture.png",  # A model may say any URL;
        "https://replicate.delivery.evil.com/x",  # only delivery hosts are fetched from.
        "see https://replicate.delivery/x.png for more",
        "data: is a word",
        "http://[foo",
        "http://127.0.0.1:9999/x",
    ],
)
def test_what_a_model_says_is_text_and_not_a_file(said: str) -> None:
    keep = plan(said, API)
    assert keep.files == ()
    assert keep.documents == {"output.txt": said.encode()}


def test_a_language_models_pieces_are_kept_as_one_text() -> None:
    assert plan(["In ", "the ", "begïnning"], API).documents == {
        "output.txt": "In the begïnning".encode()
    }


def test_structured_output_is_kept_with_its_files_by_name() -> None:
    keep = plan({"image": PNG, "seed": 7}, API)
    assert json.loads(keep.documents["output.json"]) == {"image": "output-image.png", "seed": 7}


@pytest.mark.parametrize("output", [None, [], PNG, [PNG, WAV], {"mask": PNG, "other": None}])
def test_no_document_repeats_what_is_a_file_or_nothing(output: Any) -> None:
    assert plan(output, API).documents == {}


def test_a_data_url_carries_its_content() -> None:
    assert OutputFile(DATA, "a.png").inline == b"hi"
    assert OutputFile(PNG, "a.png").inline is None
    with pytest.raises(BadInputError, match="broken base64"):
        _ = OutputFile("data:image/png;base64,a", "a.png").inline
