from typing import Any

import httpx
import pytest
from replicate.client import Client
from replicate.exceptions import ReplicateError

from prefect_replicate.local.records import Model
from prefect_replicate.local.search import about, rank, score
from tests.local.conftest import Api


@pytest.fixture(scope="module")
def zoo(api: Api) -> None:
    """Models that only these words find."""
    for name, description, readme in (
        ("zebra-painter", "Paints stripes.", "A model of the savanna."),
        ("lion", "It never shows a zebra.", "Yawns."),
        ("giraffe", "Tall.", "# Neck\n\nTaller than a Zebra."),
    ):
        api.model("local", name)
        changes = {"description": description, "readme": readme}
        assert api.http.patch(f"/models/local/{name}", json=changes).is_success


def _model(name: str, **fields: Any) -> Model:
    return Model("me", name, "2026-01-01T00:00:00.000000Z", **fields)


def _names(found: list[tuple[float, Model]]) -> list[str]:
    return [model.name for _, model in found]


# --- which fits better ---


def test_a_name_counts_more_than_a_description_and_that_more_than_a_readme() -> None:
    models = [
        _model("a", readme="a cat"),
        _model("b", description="A cat."),
        _model("cat"),
        _model("d", description="dog"),
    ]
    assert _names(rank("CAT", models)) == ["cat", "b", "a"]


def test_a_whole_word_counts_more_than_a_part_of_one() -> None:
    assert _names(rank("cat", [_model("concatenate"), _model("my-cat_v2")])) == [
        "my-cat_v2",
        "concatenate",
    ]


def test_more_of_the_words_count_more_but_a_repeated_one_does_not() -> None:
    models = [_model("red"), _model("red-cat"), _model("cat")]
    assert _names(rank("red cat", models)) == ["red-cat", "cat", "red"]
    assert score("cat cat", about("cat", None)) == score("cat", about("cat", None))


def test_of_equals_what_ran_more_often_comes_first_then_the_alphabet_decides() -> None:
    models = [_model("cat-c"), _model("cat-b"), _model("cat-a"), _model("cat-d", run_count=1)]
    assert _names(rank("cat", models)) == ["cat-d", "cat-a", "cat-b", "cat-c"]


@pytest.mark.parametrize("query", ["", "  ", "-", "nothing of the kind"])
def test_words_that_stand_nowhere_find_nothing(query: str) -> None:
    assert rank(query, [_model("cat", description=None)]) == []


# --- models.search ---


@pytest.mark.parametrize("body", ["zebra", '"zebra"', " Zebra\n", "zebra \U0001f993"])
@pytest.mark.parametrize("content_type", ["text/plain", "application/json", None])
def test_models_are_searched_whichever_way_a_client_sends_the_words(
    api: Api, zoo: None, body: str, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = api.http.request("QUERY", "/models", content=body.encode(), headers=headers)
    assert answer.status_code == 200
    names = [model["name"] for model in answer.json()["results"]]
    assert names == ["zebra-painter", "lion", "giraffe"]


@pytest.mark.parametrize("body", [b"", b'""', b"\xff\xfe", b"[qx", b"[" * 100_000])
def test_an_odd_search_finds_nothing(api: Api, zoo: None, body: bytes) -> None:
    answer = api.http.request("QUERY", "/models", content=body)
    assert (answer.status_code, answer.json()["results"]) == (200, [])


def test_the_pages_of_a_search_are_asked_for_like_the_first(api: Api) -> None:
    for number in range(30):
        api.model("local", f"pangolin-{number:02}")
    first = api.http.request("QUERY", "/models", content="pangolin").json()
    rest = api.http.request("QUERY", first["next"], content="pangolin").json()
    names = [model["name"] for page in (first, rest) for model in page["results"]]
    assert names == [f"pangolin-{number:02}" for number in range(30)]
    assert rest["next"] is None


# --- search ---


def _search(api: Api, **query: Any) -> httpx.Response:
    return api.http.get("/search", params=query)


def test_a_search_gives_models_with_scores_best_first(api: Api, zoo: None) -> None:
    found = _search(api, query="zebra").json()
    names = [hit["model"]["name"] for hit in found["models"]]
    scores = [hit["metadata"]["score"] for hit in found["models"]]
    assert names == ["zebra-painter", "lion", "giraffe"]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    assert found["models"][0]["model"] == api.http.get("/models/local/zebra-painter").json()
    assert (found["query"], found["collections"], found["pages"]) == ("zebra", [], [])


def test_a_search_gives_no_more_than_it_is_asked_for(api: Api, zoo: None) -> None:
    for number in range(60):
        api.model("local", f"armadillo-{number:02}")
    for limit, count in ({"limit": 2}, 2), ({}, 20), ({"limit": 50}, 50):
        assert len(_search(api, query="armadillo", **limit).json()["models"]) == count


@pytest.mark.parametrize("query", [{}, {"query": ""}, {"query": " "}])
def test_a_search_needs_words(api: Api, query: dict[str, str]) -> None:
    answer = _search(api, **query)
    assert answer.status_code == 400
    assert answer.json()["detail"] == 'Query parameter "query" is required'


@pytest.mark.parametrize("limit", ["0", "51", "-1", "many", "", "1.0", "9" * 5000])
def test_a_search_has_a_limit_from_1_to_50(api: Api, limit: str) -> None:
    answer = _search(api, query="x", limit=limit)
    assert answer.status_code == 400
    assert "limit" in answer.json()["detail"]


# --- collections ---


def test_the_one_collection_holds_every_model(api: Api, official: Client, zoo: None) -> None:
    [listed] = official.collections.list()
    assert listed.slug == "local"
    models = official.collections.get("local").models or []
    assert {"lion", "giraffe"} <= {model.name for model in models}
    [found] = _search(api, query="local").json()["collections"]
    assert "local/lion" in found["models"]


def test_there_is_no_other_collection(official: Client) -> None:
    with pytest.raises(ReplicateError, match="404"):
        official.collections.get("super-resolution")
