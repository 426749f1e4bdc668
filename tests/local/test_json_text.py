from typing import Any

import pytest

from prefect_replicate.local import json_text
from tests.local.conftest import Api

UNKEEPABLE = {
    "not a number": '{"a": NaN}',
    "beyond every float": '{"a": 1e400}',
    "half a character": r'{"a": "\ud800"}',
    "half a character as a name": r'{"\udfff": 1}',
    "900 levels": '{"a": ' + "[" * 900 + "]" * 900 + "}",
    "100,000 levels": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
}
unkeepable = pytest.mark.parametrize("text", UNKEEPABLE.values(), ids=UNKEEPABLE.keys())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        (r'"\ud83d\ude00"', "😀"),
        ("[" * json_text.MOST_LEVELS + "]" * json_text.MOST_LEVELS, None),
    ],
    ids=["plain", "a whole pair", "the most levels"],
)
def test_json_is_read(text: str, value: Any) -> None:
    assert json_text.parse(text.encode()) == value or value is None


def test_one_level_more_is_refused() -> None:
    levels = json_text.MOST_LEVELS + 1
    with pytest.raises(ValueError, match="nested too deeply"):
        json_text.parse("[" * levels + "]" * levels)


@unkeepable
def test_an_input_that_cannot_be_kept_is_refused_and_spoils_no_list(
    api: Api, painter: str, text: str
) -> None:
    body = f'{{"version": "{painter}", "input": {text}}}'
    response = api.http.post("/predictions", content=body)
    assert response.status_code == 400
    assert response.json()["title"] == "Bad Request"
    assert api.http.get("/predictions").status_code == 200


def test_a_description_that_cannot_be_kept_is_refused_and_spoils_no_list(api: Api) -> None:
    fields = '"owner": "local", "name": "half", "visibility": "private", "hardware": "cpu"'
    body = f'{{{fields}, "description": "\\ud800"}}'
    assert api.http.post("/models", content=body).status_code == 400
    assert api.http.get("/models").status_code == 200


@unkeepable
def test_metadata_that_cannot_be_kept_is_refused_and_spoils_no_list(api: Api, text: str) -> None:
    response = api.http.post("/files", files={"content": ("a", b"x")}, data={"metadata": text})
    assert response.status_code == 422
    assert api.http.get("/files").status_code == 200
