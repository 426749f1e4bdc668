import httpx
import pytest

from prefect_replicate.local import LocalReplicate
from tests.local.conftest import Api


@pytest.mark.parametrize("scheme", ["Bearer", "Token", "bearer"])
def test_both_schemes_let_the_token_in(server: LocalReplicate, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {server.token}"}
    assert httpx.get(f"{server.base_url}/v1/account", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        ({}, "You did not pass an authentication token"),
        ({"Authorization": "Bearer"}, "You did not pass an authentication token"),
        ({"Authorization": "Bearer r8_wrong"}, "You did not pass a valid authentication token"),
        ({"Authorization": "Basic r8_wrong"}, "You did not pass an authentication token"),
    ],
)
def test_without_the_token_nobody_comes_in(
    server: LocalReplicate, header: dict[str, str], detail: str
) -> None:
    response = httpx.get(f"{server.base_url}/v1/account", headers=header)
    assert response.status_code == 401
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {"title": "Unauthenticated", "detail": detail, "status": 401}


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/v1"])
def test_the_version_in_the_path_may_be_missing_or_doubled(api: Api, prefix: str) -> None:
    url = f"{api.server.base_url}{prefix}/account"
    assert api.http.get(url).json()["username"] == "local"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.5",
        "127.0.0.1:80:evil.example",
        "127.0.0.1:port",
        "[::1].evil.example",
        "127.0.0.1/evil",
    ],
)
def test_a_name_that_is_not_this_machines_is_refused(api: Api, host: str) -> None:
    response = api.http.get("/account", headers={"Host": host})
    assert response.status_code == 421


def test_who_came_by_a_wrong_name_makes_nothing_go_wrong(server: LocalReplicate) -> None:
    url, headers = f"{server.base_url}/v1/account", {"Host": "evil.example"}
    assert httpx.get(url, headers={**headers, "Local-Fault": "bad_gateway"}).status_code == 421
    with server.fault("bad_gateway") as fault:
        assert httpx.get(url, headers=headers).status_code == 421
        assert fault.struck == 0


def test_urls_are_those_by_which_the_client_came(api: Api, painter: str) -> None:
    name = api.server.base_url.replace("127.0.0.1", "localhost")
    client = httpx.Client(base_url=name, headers=api.http.headers, timeout=30)
    body = {"version": painter, "input": {}}
    prediction = client.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()
    assert prediction["urls"]["get"].startswith(f"{name}/v1/predictions/")
    assert prediction["output"][0].startswith(f"{name}/delivery/")
    assert httpx.get(prediction["output"][0]).content == b"blank0"


def test_an_unknown_path_is_not_found_and_never_a_redirect(api: Api) -> None:
    for path in ("/nothing", "/predictions/", "/account/"):
        response = api.http.get(path)
        assert response.status_code == 404
        assert response.headers["Content-Type"] == "application/problem+json"


def test_a_wrong_method_is_refused(api: Api) -> None:
    response = api.http.put("/account")
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, HEAD"
    assert api.http.put("/models").headers["Allow"] == "GET, HEAD, POST, QUERY"


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[]", b'"text"'])
def test_a_body_must_be_a_json_object(api: Api, body: bytes) -> None:
    assert api.http.post("/models", content=body).status_code in {400, 422}


def test_a_body_has_a_limit(api: Api) -> None:
    assert api.http.post("/predictions", content=bytes(20_000_001)).status_code == 413


def test_a_models_name_is_one_line(api: Api) -> None:
    body = {"owner": "local", "name": "two\n", "visibility": "private", "hardware": "cpu"}
    assert api.http.post("/models", json=body).status_code == 422


def test_a_models_name_is_taken_once(api: Api) -> None:
    api.model("local", "once")
    body = {"owner": "local", "name": "once", "visibility": "private", "hardware": "cpu"}
    assert api.http.post("/models", json=body).status_code == 409


def test_only_the_accounts_own_models_can_be_created(api: Api, actor: str) -> None:
    body = {"owner": "acme", "name": "ours", "visibility": "private", "hardware": "cpu"}
    response = api.http.post("/models", json=body)
    assert response.status_code == 403
    assert "'acme'" in response.json()["detail"]
    assert api.http.get("/models/acme/ours").status_code == 404


def test_a_model_is_created_read_and_listed(api: Api) -> None:
    body = {"owner": "local", "name": "described", "visibility": "public", "hardware": "cpu"}
    created = api.http.post("/models", json={**body, "description": "a model"})
    assert created.status_code == 201
    assert created.json()["latest_version"] is None
    assert api.http.get("/models/local/described").json() == created.json()
    newest = {"sort_by": "model_created_at"}
    assert api.http.get("/models", params=newest).json()["results"][0] == created.json()


def test_a_version_is_described_by_its_own_schema(api: Api, actor: str) -> None:
    model, _, number = actor.partition(":")
    version = api.http.get(f"/models/{model}/versions/{number}").json()
    assert version["id"] == number
    assert "text" in version["openapi_schema"]["components"]["schemas"]["Input"]["properties"]
    assert version in api.http.get(f"/models/{model}/versions").json()["results"]
