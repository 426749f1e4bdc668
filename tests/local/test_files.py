import hashlib
import json
from typing import Any

import httpx
import pytest

from tests.local.conftest import Api


def test_an_uploaded_file_is_described_and_listed(api: Api) -> None:
    created = api.http.post(
        "/files", files={"content": ("notes.txt", b"some notes", "text/markdown")}
    )
    file = created.json()
    assert created.status_code == 201
    assert (file["name"], file["content_type"], file["size"]) == ("notes.txt", "text/markdown", 10)
    assert file["checksums"]["sha256"] == hashlib.sha256(b"some notes").hexdigest()
    assert api.http.get(file["urls"]["get"]).json() == file
    assert api.http.get("/files").json()["results"][0] == file


def test_a_deleted_file_is_gone(api: Api) -> None:
    file = api.upload(b"x")
    assert api.http.delete(file["urls"]["get"]).status_code == 204
    response = api.http.get(file["urls"]["get"])
    assert response.status_code == 404
    assert response.json()["detail"] == "File not found"


@pytest.mark.parametrize(
    "form",
    [
        {"data": {"metadata": '{"kind": "draft"}'}},
        {"data": {"metadata[kind]": "draft"}},
        {"files": {"metadata": ("blob", json.dumps({"kind": "draft"}), "application/json")}},
    ],
    ids=["text field", "bracket fields", "file part"],
)
def test_metadata_comes_in_the_three_ways_of_the_official_clients(
    api: Api, form: dict[str, Any]
) -> None:
    files = {"content": ("a.bin", b"\r\n--almost a boundary\r\n\x00"), **form.pop("files", {})}
    file = api.http.post("/files", files=files, **form).json()
    assert file["metadata"] == {"kind": "draft"}
    assert file["size"] == 24


def test_the_forms_own_name_and_type_come_first(api: Api) -> None:
    fields = {"filename": "given.csv", "type": "text/csv"}
    file = api.http.post("/files", files={"content": ("a.bin", b"x")}, data=fields).json()
    assert (file["name"], file["content_type"]) == ("given.csv", "text/csv")


def test_a_model_reads_an_uploaded_file_by_its_api_url(api: Api, painter: str) -> None:
    file = api.upload(b"parchment")
    prediction = api.predict(painter, paper=file["urls"]["get"])
    assert prediction["input"] == {"paper": file["urls"]["get"]}
    assert httpx.get(prediction["output"][0]).content == b"parchment0"


def test_a_model_reads_what_another_put_out(api: Api, painter: str) -> None:
    (picture,) = api.predict(painter)["output"]
    (copy,) = api.predict(painter, paper=picture)["output"]
    assert httpx.get(copy).content == b"blank00"


def test_a_file_that_is_not_there_cannot_be_an_input(api: Api, painter: str) -> None:
    url = f"{api.server.base_url}/v1/files/nothing"
    body = {"version": painter, "input": {"paper": url}}
    assert api.http.post("/predictions", json=body).status_code == 422


def test_a_file_of_100_mb_is_too_large(api: Api) -> None:
    response = api.http.post("/files", files={"content": ("big", bytes(100_000_000))})
    assert response.status_code == 413
    assert response.json()["detail"] == "Files must be less than 100MB in size"


FORM = "multipart/form-data; boundary=b"
CUT = b"--b\r\nContent-Disposition: form-data; name=content\r\n\r\ncut"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", FORM, 400),
        (b"{}", "application/json", 400),
        (CUT, FORM, 400),
        (b"--b--\r\n", FORM, 422),
    ],
    ids=["empty", "not multipart", "cut off", "without content"],
)
def test_a_malformed_upload_is_refused(
    api: Api, body: bytes, content_type: str, status: int
) -> None:
    response = api.http.post("/files", content=body, headers={"Content-Type": content_type})
    assert response.status_code == status


@pytest.mark.parametrize(
    "path", ["/delivery/x/y", "/delivery/../state.db", "/delivery/%2e%2e/%2e%2e/state.db"]
)
def test_nothing_but_stored_files_is_delivered(api: Api, path: str) -> None:
    assert httpx.get(f"{api.server.base_url}{path}").status_code in {401, 404}


def test_a_delivered_file_cannot_act_as_a_page(api: Api, painter: str) -> None:
    headers = httpx.get(api.predict(painter)["output"][0]).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox"
