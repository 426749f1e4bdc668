"""Status, headers and form of the answer to each operation, one by one.

What the bodies hold is compared with the OpenAPI document by the tests of generated requests.
"""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_replicate.local import LocalReplicate
from tests.contract.document import PAGED
from tests.contract.test_operations import CALLS
from tests.contract.world import FAR, PREFERENCES, SIZES, World, build

JSON, PROBLEM = "application/json", "application/problem+json"
NOBODY = "nobody/nothing"
GONE = "0" * 64

Send = Callable[[httpx.Client, World], httpx.Response]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One of its own, since these tests change and delete things."""
    with LocalReplicate() as server:
        world = build(server, tmp_path_factory.mktemp("quick"))
        yield world
        world.http.close()


def _model(name: str) -> dict[str, str]:
    return {"owner": "local", "name": name, "visibility": "private", "hardware": "cpu"}


def _deployment(world: World, name: str) -> dict[str, Any]:
    return {"name": name, "model": "acme/quick", "version": world.version, **SIZES}


def _run(world: World) -> dict[str, Any]:
    return {"version": f"acme/quick:{world.version}", "input": {"text": "x"}}


def _training(http: httpx.Client, world: World) -> httpx.Response:
    body = {"destination": "local/tuned", "input": {}}
    return http.post(f"/models/acme/quick/versions/{world.version}/trainings", json=body)


def _download(http: httpx.Client, world: World) -> httpx.Response:
    query: dict[str, str | int] = {
        "owner": "local",
        "expiry": FAR,
        "signature": world.signature(world.file),
    }
    return http.get(f"/files/{world.file}/download", params=query)


# Operation -> how it is called so that it succeeds, the status, and the content type.
SUCCESSES: dict[str, tuple[Send, int, str | None]] = {
    "account.get": (lambda http, _: http.get("/account"), 200, JSON),
    "collections.list": (lambda http, _: http.get("/collections"), 200, JSON),
    "collections.get": (lambda http, _: http.get("/collections/local"), 200, JSON),
    "deployments.list": (lambda http, _: http.get("/deployments"), 200, JSON),
    "deployments.create": (
        lambda http, world: http.post("/deployments", json=_deployment(world, "fresh")),
        200,
        JSON,
    ),
    "deployments.get": (lambda http, _: http.get("/deployments/local/steady"), 200, JSON),
    "deployments.update": (
        lambda http, _: http.patch("/deployments/local/changing", json={"max_instances": 2}),
        200,
        JSON,
    ),
    "deployments.delete": (lambda http, _: http.delete("/deployments/local/doomed"), 204, None),
    "deployments.predictions.create": (
        lambda http, _: http.post("/deployments/local/steady/predictions", json={"input": {}}),
        201,
        JSON,
    ),
    "files.list": (lambda http, _: http.get("/files"), 200, JSON),
    "files.create": (
        lambda http, _: http.post("/files", files={"content": ("a.txt", b"x")}),
        201,
        JSON,
    ),
    "files.get": (lambda http, world: http.get(f"/files/{world.file}"), 200, JSON),
    "files.download": (_download, 200, "application/octet-stream"),
    "files.delete": (lambda http, world: http.delete(f"/files/{world.doomed_file}"), 204, None),
    "hardware.list": (lambda http, _: http.get("/hardware"), 200, JSON),
    "models.list": (lambda http, _: http.get("/models"), 200, JSON),
    "models.create": (lambda http, _: http.post("/models", json=_model("fresh")), 201, JSON),
    "models.get": (lambda http, _: http.get("/models/acme/quick"), 200, JSON),
    "models.update": (
        lambda http, _: http.patch("/models/local/changing", json={"description": "New."}),
        200,
        JSON,
    ),
    "models.delete": (lambda http, _: http.delete("/models/local/doomed"), 204, None),
    "models.examples.list": (lambda http, _: http.get("/models/acme/quick/examples"), 200, JSON),
    "models.predictions.create": (
        lambda http, _: http.post("/models/acme/official/predictions", json={"input": {}}),
        201,
        JSON,
    ),
    "models.readme.get": (
        lambda http, _: http.get("/models/local/changing/readme"),
        200,
        "text/plain; charset=utf-8",
    ),
    "models.versions.list": (lambda http, _: http.get("/models/acme/quick/versions"), 200, JSON),
    "models.versions.get": (
        lambda http, world: http.get(f"/models/acme/quick/versions/{world.version}"),
        200,
        JSON,
    ),
    "models.versions.delete": (
        lambda http, world: http.delete(f"/models/local/own/versions/{world.version}"),
        202,
        None,
    ),
    "predictions.list": (lambda http, _: http.get("/predictions"), 200, JSON),
    "predictions.create": (
        lambda http, world: http.post("/predictions", json=_run(world)),
        201,
        JSON,
    ),
    "predictions.get": (
        lambda http, world: http.get(f"/predictions/{world.prediction}"),
        200,
        JSON,
    ),
    "predictions.cancel": (
        lambda http, world: http.post(f"/predictions/{world.prediction}/cancel"),
        200,
        JSON,
    ),
    "search": (lambda http, _: http.get("/search", params={"query": "quick"}), 200, JSON),
    "trainings.create": (_training, 201, JSON),
    "trainings.list": (lambda http, _: http.get("/trainings"), 200, JSON),
    "trainings.get": (lambda http, world: http.get(f"/trainings/{world.training}"), 200, JSON),
    "trainings.cancel": (
        lambda http, world: http.post(f"/trainings/{world.training}/cancel"),
        200,
        JSON,
    ),
    "webhooks.default.secret.get": (
        lambda http, _: http.get("/webhooks/default/secret"),
        200,
        JSON,
    ),
}
# What has no token: whoever has a signature may download.
OPEN = {"files.download"}
CREATES = [name for name in SUCCESSES if name.endswith("predictions.create")]


def _request(name: str, world: World) -> httpx.Request:
    """How an operation is asked for, without asking."""
    silent = httpx.MockTransport(lambda _: httpx.Response(200))
    with httpx.Client(base_url=world.http.base_url, transport=silent) as http:
        return SUCCESSES[name][0](http, world).request


def _is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem = dict(answer.json())
    assert problem["detail"]
    assert problem["status"] == status
    return problem


def test_there_is_an_answer_to_every_operation() -> None:
    assert set(SUCCESSES) == set(CALLS)


@pytest.mark.parametrize("name", SUCCESSES)
def test_a_success_has_its_status_and_its_content_type(world: World, name: str) -> None:
    send, status, content_type = SUCCESSES[name]
    answer = send(world.http, world)
    assert (answer.status_code, answer.headers.get("content-type")) == (status, content_type)
    assert bool(answer.content) is (content_type is not None)


@pytest.mark.parametrize("name", sorted(set(SUCCESSES) - OPEN))
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic eDp4"])
def test_without_the_token_nothing_is_done(world: World, name: str, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    with httpx.Client(base_url=world.http.base_url, headers=headers) as stranger:
        answer = SUCCESSES[name][0](stranger, world)
    problem = _is_problem(answer, 401)
    assert problem["title"] == "Unauthenticated"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("name", CREATES)
def test_a_new_prediction_says_where_it_is(world: World, name: str) -> None:
    answer = SUCCESSES[name][0](world.http, world)
    assert answer.headers["location"] == answer.json()["urls"]["get"]
    assert answer.headers["location"].startswith(f"{world.server.base_url}/v1/predictions/")
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize(("prefer", "applied"), [("wait", "wait"), ("wait=5", "wait=5")])
def test_a_prediction_that_is_waited_for_says_so_and_is_done(
    world: World, prefer: str, applied: str
) -> None:
    answer = world.http.post("/predictions", json=_run(world), headers={"Prefer": prefer})
    assert answer.status_code == 201
    assert answer.headers["preference-applied"] == applied
    assert (answer.json()["status"], answer.json()["output"]) == ("succeeded", "x")


@pytest.mark.parametrize(
    "prefer", [text for text in PREFERENCES if text[-2:] in {"61", "=0", "=x"}]
)
def test_a_wait_that_is_not_allowed_is_refused(world: World, prefer: str) -> None:
    answer = world.http.post("/predictions", json=_run(world), headers={"Prefer": prefer})
    assert _is_problem(answer, 422)["invalid_fields"][0]["field"] == "Prefer"


def test_a_list_gives_absolute_urls_that_lead_through_all_of_it(world: World) -> None:
    names = {f"many-{number}" for number in range(26)}
    for name in names:
        assert world.http.post("/models", json=_model(name)).status_code == 201
    first = world.http.get("/models").json()
    assert first["previous"] is None
    link = re.escape(f"{world.server.base_url}/v1/models?cursor=") + r"[\w%]+"
    assert re.fullmatch(link, first["next"])
    second = world.http.get(first["next"]).json()
    assert re.fullmatch(link, second["previous"])
    assert second["next"] is None
    shown = [model["name"] for model in first["results"] + second["results"]]
    assert len(first["results"]) == 25
    assert len(shown) == len(set(shown))
    assert names <= set(shown)
    assert world.http.get(second["previous"]).json() == first


def test_a_link_to_the_next_page_keeps_the_order_that_was_asked_for(world: World) -> None:
    query = {"sort_by": "model_created_at", "sort_direction": "asc"}
    first = world.http.get("/models", params=query).json()
    asked = httpx.URL(first["next"]).params
    assert {name: asked[name] for name in query} == query
    assert [model["name"] for model in first["results"]][:2] == ["quick", "official"]


@pytest.mark.parametrize("name", sorted(PAGED))
@pytest.mark.parametrize("cursor", ["no base64", "/w==", base64.b64encode(b"p=-1").decode()])
def test_a_cursor_that_was_not_given_out_is_refused(world: World, name: str, cursor: str) -> None:
    answer = world.http.get(_request(name, world).url, params={"cursor": cursor})
    assert _is_problem(answer, 404)["detail"] == "Invalid cursor"


@pytest.mark.parametrize(
    "path",
    [
        "/collections/nothing",
        "/deployments/nobody/nothing",
        "/files/nothing",
        "/files/nothing/download",
        "/models/nobody/nothing",
        "/models/nobody/nothing/examples",
        "/models/nobody/nothing/readme",
        "/models/local/own/readme",
        "/models/nobody/nothing/versions",
        f"/models/acme/quick/versions/{GONE}",
        "/predictions/nothing",
        "/trainings/nothing",
        "/nothing",
        "//account",
        "/account/",
    ],
)
def test_what_is_not_there_is_404(world: World, path: str) -> None:
    _is_problem(world.http.get(f"{world.server.base_url}/v1{path}"), 404)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/deployments/nobody/nothing/predictions", {"input": {}}),
        ("/models/nobody/nothing/predictions", {"input": {}}),
        ("/models/acme/quick/predictions", {"input": {}}),  # not official
        (f"/models/acme/quick/versions/{GONE}/trainings", {"destination": "local/tuned"}),
        ("/predictions/nothing/cancel", None),
        ("/trainings/nothing/cancel", None),
    ],
)
def test_what_is_not_there_cannot_be_run_or_canceled(
    world: World, path: str, body: dict[str, Any] | None
) -> None:
    _is_problem(world.http.post(path, json=body), 404)


def test_a_training_needs_a_destination_that_is_there(world: World) -> None:
    path = f"/models/acme/quick/versions/{world.version}/trainings"
    answer = world.http.post(path, json={"destination": NOBODY, "input": {}})
    detail = _is_problem(answer, 404)["detail"]
    assert detail == "The specified training destination does not exist"


def test_a_version_that_is_not_there_cannot_be_run(world: World) -> None:
    answer = world.http.post("/predictions", json={"version": GONE, "input": {}})
    assert _is_problem(answer, 422)["title"] == "Invalid version or not permitted"


def test_a_name_is_given_once(world: World) -> None:
    _is_problem(world.http.post("/models", json=_model("tuned")), 409)
    _is_problem(world.http.post("/deployments", json=_deployment(world, "steady")), 409)


def test_models_of_others_are_not_to_be_touched(world: World) -> None:
    path = "/models/acme/quick"
    _is_problem(world.http.patch(path, json={"description": "Mine."}), 403)
    _is_problem(world.http.delete(path), 403)
    _is_problem(world.http.delete(f"{path}/versions/{world.version}"), 403)
    _is_problem(world.http.post("/models", json={**_model("x"), "owner": "acme"}), 403)


@pytest.mark.parametrize("query", [{}, {"query": " "}, {"query": "x", "limit": "51"}])
def test_a_search_that_is_refused_is_answered_in_plain_json(
    world: World, query: dict[str, str]
) -> None:
    answer = world.http.get("/search", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (400, JSON)
    assert "Query parameter" in answer.json()["detail"]


@pytest.mark.parametrize(
    "limit", ["0", "-1", "51", "1.5", "x", "", "²", "1" * 5000, "01" + "0" * 5000]
)
def test_a_search_gives_from_1_to_50_models(world: World, limit: str) -> None:
    answer = world.http.get("/search", params={"query": "quick", "limit": limit})
    assert answer.status_code == 400


@pytest.mark.parametrize("limit", ["1", "01", "0" * 5000 + "1"])
def test_a_search_gives_as_many_models_as_asked_for(world: World, limit: str) -> None:
    answer = world.http.get("/search", params={"query": "acme", "limit": limit})
    assert len(answer.json()["models"]) == 1


URLS = ("github_url", "paper_url", "license_url")


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize(
    "url", ["here", "ftp://x.com", "https://", "https://x.com/a b", "https://x.com/%zz", "//x.com"]
)
def test_a_models_links_have_to_be_urls(world: World, name: str, url: str) -> None:
    for answer in (
        world.http.patch("/models/local/changing", json={name: url}),
        world.http.post("/models", json={**_model("linked"), name: url}),
    ):
        wrong = _is_problem(answer, 422)["invalid_fields"]
        expected = {"type": "format", "field": name, "description": "Does not match format 'uri'"}
        assert wrong == [expected]


@pytest.mark.parametrize("name", URLS)
def test_a_models_link_is_shown_until_it_is_taken_away(world: World, name: str) -> None:
    url = "https://user.example.com:8080/a/b%20c?q=1&r=(2)#part"
    for given, shown in ((url, url), ("", None)):
        answer = world.http.patch("/models/local/changing", json={name: given})
        assert answer.json()[name] == shown
        assert world.http.get("/models/local/changing").json()[name] == shown


@pytest.mark.parametrize("name", sorted(SUCCESSES))
def test_options_and_methods_that_are_not_there_are_405_with_those_that_are(
    world: World, name: str
) -> None:
    request = _request(name, world)
    url = request.url.copy_with(query=None)
    for method in ("OPTIONS", "PUT", "TRACE", "PROPFIND"):
        answer = world.http.request(method, url)
        _is_problem(answer, 405)
        allowed = answer.headers["allow"].split(", ")
        assert request.method in allowed
        assert method not in allowed
        assert ("HEAD" in allowed) is ("GET" in allowed)


@pytest.mark.parametrize("name", [name for name in SUCCESSES if name.endswith((".get", ".list"))])
def test_a_head_is_answered_as_a_get_without_its_body(world: World, name: str) -> None:
    got = SUCCESSES[name][0](world.http, world)
    answer = world.http.head(got.request.url)
    assert answer.status_code == got.status_code
    assert answer.content == b""
    for header in ("content-type", "content-length"):
        assert answer.headers[header] == got.headers[header]


def test_a_host_that_is_not_this_server_is_misdirected(world: World) -> None:
    answer = world.http.get("/account", headers={"Host": "evil.example.com"})
    assert _is_problem(answer, 421)["title"] == "Misdirected Request"


@pytest.mark.parametrize(
    "body", [b"{", b"[1,", b"NaN", b'"\\ud800"', b"\xff", b"[" * 200 + b"]" * 200]
)
@pytest.mark.parametrize("path", ["/predictions", "/models", "/deployments"])
def test_a_body_that_is_no_json_is_400(world: World, path: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    _is_problem(world.http.post(path, content=body, headers=headers), 400)


@pytest.mark.parametrize("body", ["[]", '"text"', "1", "null", "{}", '{"unknown": 1}'])
@pytest.mark.parametrize("path", ["/predictions", "/models", "/deployments"])
def test_a_body_that_does_not_fit_is_422_with_what_is_wrong(
    world: World, path: str, body: str
) -> None:
    headers = {"Content-Type": "application/json"}
    problem = _is_problem(world.http.post(path, content=body, headers=headers), 422)
    assert problem["title"] == "Input validation failed"
    for wrong in problem["invalid_fields"]:
        assert set(wrong) == {"type", "field", "description"}
        assert wrong["description"] in problem["detail"]


def test_a_file_without_a_form_or_content_is_refused(world: World, tmp_path: Path) -> None:
    _is_problem(world.http.post("/files", content=b"x"), 400)
    _is_problem(world.http.post("/files", files={"other": ("a.txt", b"x")}), 422)


@pytest.mark.parametrize("content", ["quick", '"quick"'])
@pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
def test_models_are_searched_by_the_method_query(
    world: World, content: str, content_type: str
) -> None:
    headers = {"Content-Type": content_type}
    answer = world.http.request("QUERY", "/models", content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    assert "quick" in {model["name"] for model in answer.json()["results"]}
