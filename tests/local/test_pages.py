import base64
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_replicate.local import LocalReplicate, display, pages
from prefect_replicate.local.display import Piece
from tests.local.conftest import Api, write_model

HOSTILE = """<script>alert("x")</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"""
WRITER = """
from cog import BasePredictor, ConcatenateIterator

class Predictor(BasePredictor):
    def predict(self, text: str, times: int = 1, fail: bool = False) -> ConcatenateIterator[str]:
        print(text)
        self.record_metric("said", text)
        for _ in range(times):
            yield text
        if fail:
            raise ValueError(text)
"""
MIXER = """
from typing import Any, Dict, List
from cog import BaseModel, BasePredictor, Path

class Output(BaseModel):
    title: str
    link: str
    scores: List[float]
    song: Path
    film: Path
    table: Path
    drawing: Path

class Predictor(BasePredictor):
    def predict(self) -> Output:
        for name in ("song.mp3", "film.mp4", "table.csv", "drawing.png"):
            open(name, "w").write(name)
        return Output(
            title="javascript:alert(1)",
            link="https://example.com/?a=1&b=2",
            scores=[0.5, 0.25],
            song=Path("song.mp3"),
            film=Path("film.mp4"),
            table=Path("table.csv"),
            drawing=Path("drawing.png"),
        )
"""
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def page(run: dict[str, Any]) -> str:
    """The page of a run, as somebody without a token sees it."""
    response = httpx.get(run["urls"]["web"])
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    return response.text


def front(server: LocalReplicate, query: str = "") -> str:
    headers = {"Authorization": f"Bearer {server.token}"}
    response = httpx.get(f"{server.base_url}/{query}", headers=headers)
    assert response.status_code == 200
    return response.text


def refreshes(text: str) -> bool:
    return '<meta http-equiv="refresh"' in text


def badge(text: str) -> str:
    found = re.search(r'class="badge (\w+)"', text)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def finished(api: Api, actor: str) -> dict[str, Any]:
    return api.predict(actor, text="good day", times=2)


@pytest.fixture(scope="module")
def writer(server: LocalReplicate, folders: Path) -> str:
    return server.push(write_model(folders / "writer", WRITER), "acme/writer", official=True)


@pytest.fixture(scope="module")
def mixer(server: LocalReplicate, folders: Path) -> str:
    return server.push(write_model(folders / "mixer", MIXER), "acme/mixer")


# --- the page of a run ---


def test_a_page_says_what_ran_how_long_and_with_what_result(
    finished: dict[str, Any], actor: str
) -> None:
    text = page(finished)
    model, _, version = actor.partition(":")
    assert f'<h1>{model}<span class="version" title="{version}">' in text
    assert badge(text) == "succeeded"
    assert ">base: good daygood day</div>" in text
    assert "asked to say" in text
    assert '<dt class="given">words</dt><dd>2</dd>' in text
    assert f"<dt>Ran</dt><dd>{display.span(finished['metrics']['predict_time'])}</dd>" in text
    created = finished["created_at"]
    assert f'<time datetime="{created}" title="{display.exact(created)}">' in text


def test_a_failed_prediction_shows_its_error(api: Api, actor: str) -> None:
    text = page(api.predict(actor, text="", act="fail"))
    assert badge(text) == "failed"
    assert re.search(r"Error</h2>\s*<div[^>]*>ValueError: I cannot<", text)
    assert not refreshes(text)


def test_a_page_loads_again_only_while_the_run_is_alive(api: Api, actor: str) -> None:
    run = api.predict(actor, prefer="", text="", act="sleep")
    run = api.until(run, lambda run: run["status"] == "processing" and run["logs"])
    text = page(run)
    assert badge(text) == "processing"
    assert refreshes(text)
    assert "Running for" in text
    assert "asked to sleep" in text
    api.http.post(run["urls"]["cancel"])
    text = page(run)
    assert badge(text) == "canceled"
    assert not refreshes(text)


def test_output_shows_as_it_comes(api: Api, counter: str) -> None:
    run = api.predict(counter, prefer="", to=2, pause=30)
    run = api.until(run, lambda run: bool(run.get("output")))
    assert '<ol class="items">' in page(run)
    api.http.post(run["urls"]["cancel"])


def test_a_training_shows_where_it_went(api: Api, actor: str) -> None:
    api.model("local", "paged")
    data = api.upload(b"gold")
    run = api.end(api.train(actor, "local/paged", data=data["urls"]["get"]).json())
    text = page(run)
    assert '<p class="kind">training</p>' in text
    assert "<dt>Destination</dt><dd>local/paged</dd>" in text
    assert run["output"]["version"] in text
    assert f'<a href="{httpx.URL(run["output"]["weights"]).path}">' in text


def test_an_official_models_version_stays_hidden(api: Api, writer: str) -> None:
    run = api.http.post("/models/acme/writer/predictions", json={"input": {"text": "hi"}}).json()
    text = page(api.end(run))
    assert "<h1>acme/writer</h1>" in text
    assert writer.partition(":")[2][:12] not in text


def test_a_deployment_is_named(api: Api, writer: str) -> None:
    body = {
        "name": "paged",
        "model": "acme/writer",
        "version": writer.partition(":")[2],
        "hardware": "cpu",
        "min_instances": 0,
        "max_instances": 1,
    }
    assert api.http.post("/deployments", json=body).status_code == 200
    path = "/deployments/local/paged/predictions"
    run = api.http.post(path, json={"input": {"text": "hi"}}).json()
    assert "<dt>Deployment</dt><dd>paged</dd>" in page(run)
    text = front(api.server)
    assert '<span class="name">local/paged</span>' in text
    assert "0 to 1 instances" in text


def test_removed_data_is_said_to_be_removed(server: LocalReplicate, api: Api, actor: str) -> None:
    with server.behaving():
        run = api.predict(actor, text="for your eyes only")
        assert "for your eyes only" in page(run)
        server.behave(retention=0.1)
        api.until(run, lambda run: bool(run["data_removed"]))
        text = page(run)
    assert "Input, output and logs of this prediction have been removed." in text
    assert "for your eyes only" not in text
    assert 'id="logs"' not in text


def test_an_unknown_id_has_a_page_that_says_so(server: LocalReplicate) -> None:
    response = httpx.get(f"{server.base_url}/p/{'x' * 26}")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "There is nothing here" in response.text


# --- values ---


def test_pictures_are_shown_from_this_server(api: Api, painter: str) -> None:
    run = api.predict(painter, count=2)
    text = page(run)
    assert '<div class="gallery">' in text
    for url in run["output"]:
        assert f'<img src="{httpx.URL(url).path}" alt=' in text


def test_each_kind_of_value_has_its_own_looks(api: Api, mixer: str) -> None:
    run = api.predict(mixer)
    output, text = run["output"], page(run)
    at = {name: httpx.URL(url).path for name, url in output.items() if "delivery" in url}
    assert f'<audio controls preload="metadata" src="{at["song"]}">' in text
    assert f'<video controls preload="metadata" src="{at["film"]}">' in text
    assert f'<a href="{at["table"]}">table.csv</a> <span>9 bytes</span>' in text
    assert f'<img src="{at["drawing"]}"' in text
    assert '<a class="outside" href="https://example.com/?a=1&amp;b=2"' in text
    assert '<code class="value">[0.5, 0.25]</code>' in text
    assert "javascript:alert(1)</div>" in text
    assert 'href="javascript' not in text


def test_parts_of_one_text_are_put_together(api: Api, writer: str) -> None:
    assert ">la la la </div>" in page(api.predict(writer, text="la ", times=3))


def test_input_files_are_shown(api: Api, painter: str) -> None:
    picture = api.predict(painter)["output"][0]
    path = httpx.URL(picture).path
    assert f'<img src="{path}"' in page(api.predict(painter, paper=picture))
    upload = api.upload(b"plain", "notes.txt")["urls"]["get"]
    assert '">notes.txt</a> <span>5 bytes</span>' in page(api.predict(painter, paper=upload))
    assert f'<img src="{PIXEL}"' in page(api.predict(painter, paper=PIXEL))


def test_a_long_data_uri_does_not_blow_up_a_page(api: Api, painter: str) -> None:
    uri = "data:image/png;base64," + base64.b64encode(bytes(300_000)).decode()
    text = page(api.predict(painter, paper=uri))
    assert len(text) < 20_000
    assert "data: URI (image/png) <span>300 kB, not shown here</span>" in text


def test_secrets_are_not_shown(api: Api, painter: str) -> None:
    text = page(api.predict(painter, key="hunter2"))
    assert "[REDACTED]" in text
    assert "hunter2" not in text


def test_long_values_are_cut_and_say_so(api: Api, writer: str) -> None:
    text = page(api.predict(writer, text="x" * 60_000, times=2))
    assert "The first 100,000 of 120,000 characters are shown." in text
    assert len(text) < 300_000


def test_of_long_logs_the_end_is_shown() -> None:
    logs = display.show_logs("early\n" * 50_000 + "late")
    assert logs.note == "The first 200,004 characters are left out."
    assert logs.text.endswith("early\nlate")


@pytest.mark.parametrize(
    ("logs", "left"),
    [
        ("10%\r50%\r100%\ndone", "100%\ndone"),
        ("10%\r50%\r", "50%"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("\x1b[1;31mred\x1b[0m \x1b[2Kcleared", "red cleared"),
    ],
)
def test_logs_are_as_a_terminal_would_leave_them(logs: str, left: str) -> None:
    assert display.show_logs(logs).text == left


@pytest.mark.parametrize(
    "value",
    [
        [""] * 1_000_000,
        [[[""] * 100] * 100] * 100,
        {f"{number}" * 500: "x" * 1000 for number in range(1000)},
        list(range(1_000_000)),
        [{"a": [1]}] * 100_000,
        "x" * 1_000_000,
    ],
    ids=["empty texts", "deep", "long names", "numbers", "objects", "text"],
)
def test_a_layout_has_bounds(value: Any) -> None:
    piece = display.show(value, lambda _: None)
    assert _characters(piece) <= 1.5 * display.MOST
    assert len(piece.parts) <= display.MOST_ITEMS
    assert _count(piece) < 10_000
    assert "shown." in str(piece)


def _count(piece: Piece) -> int:
    return 1 + sum(_count(part) for _, part in piece.parts)


def _characters(piece: Piece) -> int:
    return len(piece.text) + sum(len(name) + _characters(part) for name, part in piece.parts)


# --- hostile values ---


def test_nothing_that_users_or_models_wrote_is_markup(api: Api, writer: str) -> None:
    for run in (api.predict(writer, text=HOSTILE), api.predict(writer, text=HOSTILE, fail=True)):
        text = page(run)
        assert "<script" not in text
        assert "<img" not in text
        # input, output, logs and the metric, and perhaps the error
        assert text.count("{{ 7 * 7 }}") >= 4
    assert "<script" not in front(api.server)
    assert "<img src=x" not in front(api.server)


def test_hostile_names_of_input_fields_are_text(
    server: LocalReplicate, api: Api, folders: Path
) -> None:
    predict = "from cog import BasePredictor\nclass Predictor(BasePredictor):\n"
    predict += "    def predict(self, given: dict) -> dict:\n        return given\n"
    version = server.push(write_model(folders / "mirror", predict), "acme/mirror")
    text = page(api.predict(version, given={HOSTILE: {HOSTILE: [HOSTILE]}}))
    assert "<script" not in text
    assert text.count("{{ 7 * 7 }}") == 6


def test_a_page_runs_nothing_and_loads_nothing_from_elsewhere(
    server: LocalReplicate, finished: dict[str, Any]
) -> None:
    unknown = f"{server.base_url}/p/{'x' * 26}"
    for url in (finished["urls"]["web"], unknown, f"{server.base_url}/"):
        response = httpx.get(url)
        style = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
        policy = response.headers["Content-Security-Policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        assert f"style-src 'sha256-{digest}'" in policy
        assert "img-src 'self' data:" in policy
        assert not any("script" in rule or "unsafe" in rule for rule in policy)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"
        assert " style=" not in response.text


@pytest.mark.parametrize("path", ["/", "/p/abc"])
def test_a_page_answers_only_under_a_name_of_this_machine(
    server: LocalReplicate, path: str
) -> None:
    response = httpx.get(f"{server.base_url}{path}", headers={"Host": "evil.example"})
    assert response.status_code == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_pages_are_read_only(server: LocalReplicate, finished: dict[str, Any], method: str) -> None:
    for url in (finished["urls"]["web"], f"{server.base_url}/"):
        response = httpx.request(method, url)
        assert response.status_code == 405
        assert response.headers["Allow"] == "GET, HEAD"


def test_head_is_answered_without_a_body(finished: dict[str, Any]) -> None:
    response = httpx.head(finished["urls"]["web"])
    assert (response.status_code, response.content) == (200, b"")


# --- who sees the front page ---


def test_without_the_token_the_front_page_says_how_to_get_in(
    server: LocalReplicate, finished: dict[str, Any]
) -> None:
    response = httpx.get(f"{server.base_url}/")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert f"{server.base_url}/?token=" in response.text
    assert finished["id"] not in response.text


def test_the_link_lets_a_browser_in_once_and_for_all(
    server: LocalReplicate, finished: dict[str, Any]
) -> None:
    link = pages.front_page_link(server.base_url, server.token)
    with httpx.Client() as browser:
        entered = browser.get(link)
        assert entered.status_code == 303
        assert entered.headers["Location"] == "/"
        cookie = entered.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert server.token not in f"{entered.headers}{entered.text}"
        response = browser.get(f"{server.base_url}/")
    assert response.status_code == 200
    assert finished["id"] in response.text
    assert server.token not in f"{response.headers}{response.text}"


@pytest.mark.parametrize("query", ["?token=", "?token=r8_wrong", "?token=%ff%00&token=x"])
def test_a_wrong_link_lets_nobody_in(server: LocalReplicate, query: str) -> None:
    response = httpx.get(f"{server.base_url}/{query}")
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("value", ["", "x", "0" * 64])
def test_a_made_up_cookie_lets_nobody_in(server: LocalReplicate, value: str) -> None:
    name = f"local_replicate_{httpx.URL(server.base_url).port}"
    for cookie in (value, server.token):
        headers = {"Cookie": f"{name}={cookie}"}
        assert httpx.get(f"{server.base_url}/", headers=headers).status_code == 401


def test_the_cookie_opens_nothing_but_the_front_page(server: LocalReplicate) -> None:
    with httpx.Client() as browser:
        browser.get(pages.front_page_link(server.base_url, server.token))
        assert browser.get(f"{server.base_url}/v1/predictions").status_code == 401
        value = next(iter(browser.cookies.values()))
    headers = {"Authorization": f"Bearer {value}"}
    assert httpx.get(f"{server.base_url}/v1/account", headers=headers).status_code == 401


def test_the_cookie_of_another_server_lets_nobody_in(
    server: LocalReplicate, server_of_its_own: Api
) -> None:
    other = server_of_its_own.server
    with httpx.Client() as browser:
        browser.get(pages.front_page_link(other.base_url, other.token))
        value = next(iter(browser.cookies.values()))
    name = f"local_replicate_{httpx.URL(server.base_url).port}"
    headers = {"Cookie": f"{name}={value}"}
    assert httpx.get(f"{server.base_url}/", headers=headers).status_code == 401


@pytest.mark.parametrize(("scheme", "status"), [("Token", 200), ("bearer", 200), ("Basic", 401)])
def test_the_header_lets_in_as_everywhere(server: LocalReplicate, scheme: str, status: int) -> None:
    headers = {"Authorization": f"{scheme} {server.token}"}
    assert httpx.get(f"{server.base_url}/", headers=headers).status_code == status


def test_a_link_carries_any_token() -> None:
    link = pages.front_page_link("http://127.0.0.1:1", "a&b c")
    assert link == "http://127.0.0.1:1/?token=a%26b+c"


# --- what the front page shows ---


def test_the_front_page_lists_the_newest_runs_first(api: Api, actor: str, painter: str) -> None:
    failed = api.predict(actor, text="", act="fail")
    painted = api.predict(painter)
    text = front(api.server)
    assert text.index(f'href="/p/{painted["id"]}"') < text.index(f'href="/p/{failed["id"]}"')
    assert f'<img class="thumb" src="{httpx.URL(painted["output"][0]).path}"' in text
    assert ">ValueError: I cannot</p>" in text


def test_the_front_page_counts_versions(server_of_its_own: Api, tmp_path: Path) -> None:
    own = server_of_its_own
    assert "Nothing has run yet." in front(own.server)
    own.server.push(write_model(tmp_path / "model", WRITER), "acme/one")
    newest = own.server.push(write_model(tmp_path / "model", MIXER), "acme/one")
    own.model("local", "bare")
    text = front(own.server)
    assert f'acme/one</span><span class="version" title="{newest.partition(":")[2]}">' in text
    assert '>2 versions<span class="took">0 runs</span>' in text
    assert '>0 versions<span class="took">0 runs</span>' in text
    assert not refreshes(text)


def test_the_front_page_loads_again_while_something_runs(
    server_of_its_own: Api, actor_folder: Path
) -> None:
    own = server_of_its_own
    run = own.predict(own.server.push(actor_folder, "acme/actor"), prefer="", text="", act="sleep")
    assert refreshes(front(own.server))
    own.http.post(run["urls"]["cancel"])
    assert not refreshes(front(own.server))


def test_the_front_page_is_cut_into_pages(server_of_its_own: Api, actor_folder: Path) -> None:
    own = server_of_its_own
    version = own.server.push(actor_folder, "acme/actor")
    made = [own.predict(version, text=f"{number}")["id"] for number in range(51)]
    newest = front(own.server)
    assert _listed(newest) == made[:0:-1]
    assert 'rel="prev"' not in newest
    (query,) = re.findall(r'href="/(\?before=\d+)" rel="next"', newest)
    oldest = front(own.server, query)
    assert _listed(oldest) == made[:1]
    assert 'rel="next"' not in oldest
    (query,) = re.findall(r'href="/(\?since=\d+)" rel="prev"', oldest)
    assert _listed(front(own.server, query)) == _listed(newest)


def _listed(text: str) -> list[str]:
    return re.findall(r'href="/p/(\w+)"', text)


@pytest.mark.parametrize("query", ["?before=x", "?before=-1", f"?since={2**70}"])
def test_a_page_that_cannot_be_is_not_found(api: Api, query: str) -> None:
    headers = api.http.headers
    assert httpx.get(f"{api.server.base_url}/{query}", headers=headers).status_code == 404


# --- times and sizes ---

NOW = datetime(2025, 3, 12, 14, 3, 22, 500_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2025-03-12T14:03:22.000000Z", "just now"),
        ("2025-03-12T14:03:10.000000Z", "12 s ago"),
        ("2025-03-12T13:59:10.000000Z", "4 min ago"),
        ("2025-03-12T02:59:10.000000Z", "11 h ago"),
        ("2025-03-01T02:59:10.000000Z", "1 Mar 2025"),
        ("2025-03-12T14:05:00.000000Z", "just now"),  # clocks may be set back
    ],
)
def test_how_long_ago(moment: str, shown: str) -> None:
    assert display.ago(moment, NOW) == shown


def test_a_time_is_told_without_a_day_that_is_known() -> None:
    earlier = "2025-03-12T14:03:22.123456Z"
    assert display.clock(earlier) == "12 Mar 2025, 14:03:22"
    assert display.clock_after("2025-03-12T15:00:00.000000Z", earlier) == "15:00:00"
    later = display.clock_after("2025-03-13T00:00:01.000000Z", earlier)
    assert later == "13 Mar 2025, 00:00:01"
    assert display.exact(earlier) == "2025-03-12 14:03:22.123456 UTC"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"),
        (0.0842, "84 ms"),
        (0.1, "0.10 s"),
        (3.207, "3.21 s"),
        (42.06, "42.1 s"),
        (59.97, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3600 + 180, "1 h 03 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_a_duration(seconds: float, shown: str) -> None:
    assert display.span(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (999_400, "999 kB"),
        (999_600, "1.0 MB"),
        (3_210_000_000_000, "3210 GB"),
    ],
)
def test_a_size(size: int, shown: str) -> None:
    assert display.amount(size) == shown


def test_old_runs_are_looked_at_less_often() -> None:
    assert [pages.refresh_after(age) for age in (0, 29, 30, 300, 1e6)] == [1, 1, 2, 10, 10]
