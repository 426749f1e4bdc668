import base64
import hashlib
import hmac
import json
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_replicate.local import LocalReplicate
from prefect_replicate.local.files import FileStore, safe_name
from tests.local.conftest import Api, Client


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


def _raw_get(base_url: str, path: str) -> bytes:
    """The answer to a path that no client tidies up."""
    host, _, port = base_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize(
    "trick",
    ["../../state.db", "..%2f..%2fstate.db", "%2e%2e/%2e%2e/state.db", "..%5c..%5cstate.db", "."],
)
def test_no_path_leads_out_of_the_store(api: Api, painter: str, trick: str) -> None:
    base = api.server.base_url
    url = api.predict(painter)["output"][0].removeprefix(base)
    folder = url.rpartition("/")[0]
    assert _raw_get(base, url).endswith(b"blank0")
    answer = _raw_get(base, f"{folder}/{trick}")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"SQLite" not in answer


def test_an_expired_file_is_gone_with_its_bytes(tmp_path: Path, client: Client) -> None:
    with LocalReplicate(tmp_path) as server:
        file = client(server).upload(b"old")
    with sqlite3.connect(tmp_path / "state.db") as db:
        (document,) = db.execute("SELECT document FROM files").fetchone()
        record = json.loads(document) | {"expires_at": "2020-01-01T00:00:00.000000Z"}
        db.execute("UPDATE files SET document = ?", [json.dumps(record)])
    db.close()
    with LocalReplicate(tmp_path) as server:
        http = client(server).http
        assert list((tmp_path / "files").iterdir())
        assert http.get("/files").json()["results"] == []
        assert http.get(f"/files/{file['id']}").status_code == 404
        assert list((tmp_path / "files").iterdir()) == []


def test_expired_files_that_nobody_asks_for_leave_the_disk_too(
    tmp_path: Path, client: Client
) -> None:
    with LocalReplicate(tmp_path) as server:
        api = client(server)
        for _ in range(3):
            api.upload(b"old")
        server.behave(clock_offset=25 * 3600)
        new = api.upload(b"new")
        give_up = time.monotonic() + 30
        while len(list((tmp_path / "files").iterdir())) > 1:
            assert time.monotonic() < give_up
            time.sleep(0.2)
        assert api.http.get("/files").json()["results"] == [new]


def test_a_delivered_file_cannot_act_as_a_page(api: Api, painter: str) -> None:
    headers = httpx.get(api.predict(painter)["output"][0]).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox"


def _form(filename: bytes) -> bytes:
    header = b'Content-Disposition: form-data; name="content"; ' + filename
    return b"--b\r\n" + header + b"\r\n\r\nx\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ('filename="größe.txt"'.encode(), "größe.txt"),
        ('filename="größe.txt"'.encode("latin-1"), "größe.txt"),
        (b"filename*=UTF-8''gr%C3%B6%C3%9Fe.txt", "größe.txt"),
        (b"filename*=utf-7''half%2B2AA-.txt", "half?.txt"),
    ],
    ids=["UTF-8", "Latin-1", "RFC 2231", "half a character"],
)
def test_a_files_name_may_be_of_any_letters(api: Api, filename: bytes, name: str) -> None:
    headers = {"Content-Type": FORM}
    created = api.http.post("/files", content=_form(filename), headers=headers)
    assert created.status_code == 201
    assert created.json()["name"] == name
    assert api.http.get("/files").json()["results"][0] == created.json()


@pytest.mark.parametrize(
    "name", ["." + "x" * 199, "y" + "." * 3 + "x" * 199, "../..", "ö" * 101, ""]
)
def test_a_safe_name_stays_as_it_is(tmp_path: Path, name: str) -> None:
    safe = safe_name(name)
    assert safe_name(safe) == safe
    assert not safe.startswith(".")
    store = FileStore(tmp_path / "files")
    assert store.find(store.save([b"x"], name).path)


def _signed(api: Api, file: dict[str, Any], expiry: str, owner: str = "local") -> dict[str, str]:
    """The query of a download, signed as Replicate describes it."""
    text = f"{owner} {file['id']} {expiry}".encode()
    key = api.server.files_secret.encode()
    signature = base64.b64encode(hmac.digest(key, text, "sha256")).decode()
    return {"owner": owner, "expiry": expiry, "signature": signature}


def _download(api: Api, file: dict[str, Any], query: dict[str, str]) -> httpx.Response:
    return httpx.get(f"{file['urls']['get']}/download", params=query)


def test_a_file_is_downloaded_with_a_signature_instead_of_a_token(api: Api) -> None:
    file = api.upload(b"\x00some <b>bytes</b>", "größe.html")
    answer = _download(api, file, _signed(api, file, str(int(time.time()) + 60)))
    assert (answer.status_code, answer.content) == (200, b"\x00some <b>bytes</b>")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert "attachment" in answer.headers["content-disposition"]


def test_a_plus_in_a_signature_may_be_left_unquoted(api: Api) -> None:
    file = api.upload(b"x")
    later = int(time.time()) + 60
    queries = (_signed(api, file, str(later + more)) for more in range(1000))
    query = next(query for query in queries if "+" in query["signature"])
    plain = "&".join(f"{name}={value}" for name, value in query.items())
    assert httpx.get(f"{file['urls']['get']}/download?{plain}").content == b"x"


def test_a_download_that_is_not_signed_right_finds_nothing(api: Api) -> None:
    file, other = api.upload(b"x"), api.upload(b"y")
    later = str(int(time.time()) + 60)
    good = _signed(api, file, later)
    wrong = [
        {},
        {**good, "signature": ""},
        {**good, "signature": "größe"},
        {**good, "expiry": str(int(later) + 1)},
        _signed(api, other, later),
        _signed(api, file, later, owner="somebody"),
        _signed(api, file, str(int(time.time()) - 1)),
        _signed(api, file, "tomorrow"),
        _signed(api, file, "9" * 5000),
    ]
    for query in wrong:
        answer = _download(api, file, query)
        assert (answer.status_code, answer.json()["detail"]) == (404, "File not found"), query
    assert _download(api, file, good).content == b"x"
    api.http.delete(file["urls"]["get"])
    assert _download(api, file, good).status_code == 404


def test_each_folder_keeps_a_secret_of_its_own_for_downloads(tmp_path: Path) -> None:
    with LocalReplicate(tmp_path / "one") as one, LocalReplicate(tmp_path / "two") as two:
        secret = one.files_secret
        assert len({secret, two.files_secret, one.token}) == 3
    assert (tmp_path / "one" / "files_secret").stat().st_mode & 0o777 == 0o600
    with LocalReplicate(tmp_path / "one") as one:
        assert one.files_secret == secret


def test_a_delivered_file_is_of_the_type_that_its_name_says(
    api: Api, server: LocalReplicate
) -> None:
    store = server._require().service.files
    types = {"a.png": "image/png", "a.webp": "image/webp", "a.flac": "audio/flac", "a": None}
    for name, expected in types.items():
        path = store.save([b"x"], name).path
        told = httpx.get(f"{server.base_url}/delivery/{path}").headers["content-type"]
        assert told == (expected or "application/octet-stream")


def test_an_uploads_type_is_never_more_than_a_line(api: Api) -> None:
    asked = {"type": "text/plain\r\nX-Evil: 1"}
    made = api.http.post("/files", data=asked, files={"content": ("a", b"x")}).json()
    assert made["content_type"] == "application/octet-stream"
