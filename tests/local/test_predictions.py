import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_replicate.local import LocalReplicate
from prefect_replicate.local.cog_worker import LEFTOVERS
from tests.local.conftest import Api, ModelFolder


def test_a_prediction_that_is_waited_for_comes_back_finished(api: Api, actor: str) -> None:
    body = {"version": actor, "input": {"text": "hello", "times": 2}}
    response = api.http.post("/predictions", json=body, headers={"Prefer": "wait=30"})
    prediction = response.json()
    assert response.status_code == 201
    assert response.headers["Preference-Applied"] == "wait=30"
    assert response.headers["Location"] == prediction["urls"]["get"]
    assert prediction["status"] == "succeeded"
    assert prediction["output"] == "base: hellohello"
    assert prediction["input"] == body["input"]


def test_a_prediction_that_is_not_waited_for_comes_back_starting(api: Api, actor: str) -> None:
    prediction = api.predict(actor, prefer="", text="hello")
    assert prediction["status"] == "starting"
    assert prediction["output"] is None
    assert api.end(prediction)["output"] == "base: hello"


def test_a_wait_that_is_over_too_early_answers_202_and_starting(api: Api, actor: str) -> None:
    body = {"version": actor, "input": {"text": "x", "act": "sleep", "seconds": 1.5}}
    response = api.http.post("/predictions", json=body, headers={"Prefer": "wait=1"})
    assert (response.status_code, response.json()["status"]) == (202, "starting")
    assert "started_at" not in response.json()
    assert api.end(response.json())["status"] == "succeeded"


def test_logs_and_metrics_come_with_the_result(api: Api, actor: str) -> None:
    prediction = api.predict(actor, text="three little words")
    assert prediction["logs"] == "asked to say\na warning\n"
    assert prediction["metrics"]["words"] == 3
    assert prediction["metrics"]["total_time"] >= prediction["metrics"]["predict_time"] > 0


def test_logs_can_be_read_while_the_model_runs(api: Api, actor: str) -> None:
    prediction = api.predict(actor, prefer="", text="x", act="sleep", seconds=1)
    running = api.until(prediction, lambda run: bool(run["logs"]))
    assert running["status"] == "processing"
    assert "metrics" not in running
    api.end(running)


def test_a_flood_of_logs_and_parts_is_kept_whole(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    source = """
from typing import Iterator
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self, count: int) -> Iterator[int]:
        for number in range(count):
            print(number)
        yield from range(count)
"""
    prediction = api.predict(server.push(model_folder(source), "acme/flood"), count=5_000)
    assert prediction["status"] == "succeeded"
    assert prediction["logs"] == "".join(f"{number}\n" for number in range(5_000))
    assert prediction["output"] == list(range(5_000))


def test_an_iterator_gives_a_list_in_order(api: Api, counter: str) -> None:
    assert api.predict(counter, to=20)["output"] == [f"{number} " for number in range(20)]


def test_parts_of_an_output_can_be_read_while_the_model_runs(api: Api, counter: str) -> None:
    prediction = api.predict(counter, prefer="", to=3, pause=0.5)
    running = api.until(prediction, lambda run: bool(run["output"]))
    assert running["status"] == "processing"
    assert running["output"] == ["0 "]
    assert api.end(running)["output"] == ["0 ", "1 ", "2 "]


def test_files_come_as_urls_that_need_no_token(api: Api, painter: str) -> None:
    urls = api.predict(painter, count=3)["output"]
    assert [Path(url).name for url in urls] == ["out-0.png", "out-1.png", "out-2.png"]
    answers = [httpx.get(url) for url in urls]
    assert [answer.content for answer in answers] == [b"blank0", b"blank1", b"blank2"]
    assert answers[0].headers["Content-Type"] == "image/png"


def test_a_failing_model_says_why_and_keeps_its_logs(api: Api, actor: str) -> None:
    prediction = api.predict(actor, text="x", act="fail")
    assert prediction["status"] == "failed"
    assert prediction["error"] == "ValueError: I cannot"
    assert prediction["logs"].startswith("asked to fail\n")
    assert prediction["output"] is None


def test_a_model_that_crashes_fails_its_prediction_and_serves_the_next(
    api: Api, actor: str
) -> None:
    crashed = api.predict(actor, text="x", act="exit")
    assert crashed["status"] == "failed"
    assert "process died" in crashed["error"]
    assert api.predict(actor, text="again")["output"] == "base: again"


def test_a_worker_that_died_unseen_is_replaced(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    source = """
import os
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self) -> int:
        return os.getpgrp()
"""
    version = server.push(model_folder(source), "acme/group")
    group = api.predict(version)["output"]
    assert api.predict(version)["output"] == group
    os.killpg(group, signal.SIGKILL)
    again = api.predict(version)
    assert again["status"] == "succeeded"
    assert again["output"] != group


def test_a_model_whose_setup_fails_says_why(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    source = """
from cog import BasePredictor
class Predictor(BasePredictor):
    def setup(self):
        raise RuntimeError("no weights")
    def predict(self) -> str:
        return ""
"""
    version = server.push(model_folder(source), "acme/broken-setup")
    prediction = api.predict(version)
    assert prediction["status"] == "failed"
    assert prediction["error"] == "The model did not start: RuntimeError: no weights"


def test_canceling_ends_a_model_that_computes(api: Api, actor: str) -> None:
    prediction = api.predict(actor, prefer="", text="x", act="spin")
    running = api.until(prediction, lambda run: run["status"] == "processing")
    response = api.http.post(running["urls"]["cancel"])
    assert response.status_code == 200
    assert response.json()["status"] == "canceled"
    assert response.json()["completed_at"]
    assert api.predict(actor, text="next")["status"] == "succeeded"


def test_a_model_that_listens_to_a_cancel_keeps_its_process(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    source = """
import os
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self, spin: bool = False) -> int:
        while spin:
            pass
        return os.getpid()
"""
    version = server.push(model_folder(source), "acme/listening")
    process = api.predict(version)["output"]
    prediction = api.predict(version, prefer="", spin=True)
    running = api.until(prediction, lambda run: run["status"] == "processing")
    assert api.http.post(running["urls"]["cancel"]).json()["status"] == "canceled"
    assert api.predict(version)["output"] == process


def test_coglet_leaves_nothing_of_a_prediction(api: Api, actor: str) -> None:
    prediction = api.predict(actor, prefer="", text="x", act="sleep", seconds=0.3)
    api.until(prediction, lambda run: run["status"] == "processing")
    assert (LEFTOVERS / prediction["id"]).exists()
    api.end(prediction)
    api.predict(actor, text="the next begins after the last is cleared away")
    assert not (LEFTOVERS / prediction["id"]).exists()


def test_canceling_ends_a_model_that_does_not_listen(api: Api, actor: str) -> None:
    prediction = api.predict(actor, prefer="", text="x", act="sleep", seconds=600)
    running = api.until(prediction, lambda run: run["status"] == "processing")
    assert api.http.post(running["urls"]["cancel"]).json()["status"] == "canceled"
    assert api.predict(actor, text="next")["status"] == "succeeded"
    assert api.http.get(running["urls"]["get"]).json()["status"] == "canceled"


def test_canceling_before_the_start_never_runs_the_model(api: Api, actor: str) -> None:
    first = api.predict(actor, prefer="", text="x", act="sleep", seconds=1)
    queued = api.predict(actor, prefer="", text="x")
    canceled = api.http.post(queued["urls"]["cancel"]).json()
    assert canceled["status"] == "canceled"
    assert "started_at" not in canceled
    assert api.end(first)["status"] == "succeeded"
    assert api.http.get(queued["urls"]["get"]).json()["logs"] == ""


def test_canceling_what_has_ended_changes_nothing(api: Api, actor: str) -> None:
    prediction = api.predict(actor, text="x")
    response = api.http.post(prediction["urls"]["cancel"], content=b"ignored")
    assert response.status_code == 200
    assert response.json() == prediction


def test_a_deadline_that_passes_while_the_model_runs_cancels_it(api: Api, actor: str) -> None:
    body = {"version": actor, "input": {"text": "x", "act": "spin"}}
    response = api.http.post("/predictions", json=body, headers={"Cancel-After": "5s"})
    assert response.json()["deadline"] > response.json()["created_at"]
    waiting = api.http.post("/predictions", json=body, headers={"Cancel-After": "5"}).json()
    assert api.end(response.json())["status"] == "canceled"
    assert api.end(waiting)["status"] == "aborted"


def test_secrets_reach_the_model_and_nobody_else(api: Api, painter: str) -> None:
    prediction = api.predict(painter, key="12345")
    assert prediction["input"] == {"key": "[REDACTED]"}
    assert httpx.get(prediction["output"][0]).content == b"blank50"


def test_what_does_not_fit_is_refused_without_showing_a_secret(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    source = """
from typing import Optional
from cog import BasePredictor, Input, Secret
class Predictor(BasePredictor):
    def predict(
        self,
        key: Optional[Secret] = Input(default=None, min_length=9),
        keys: list[Secret] = Input(default=[]),
        times: Optional[int] = Input(default=None, le=3),
    ) -> str:
        return f"{len(keys)} keys"
"""
    version = server.push(model_folder(source), "acme/secretive")
    for given, kind, field in (
        ({"key": "hidden"}, "string_gte", "input.key"),
        ({"key": ["hidden"]}, "invalid_type", "input.key"),
        ({"keys": "hidden"}, "invalid_type", "input.keys"),
        ({"times": 4}, "number_lte", "input.times"),
    ):
        response = api.http.post("/predictions", json={"version": version, "input": given})
        assert response.status_code == 422
        assert "hidden" not in response.text
        fields = response.json()["invalid_fields"]
        assert [(each["type"], each["field"]) for each in fields] == [(kind, field)]
    prediction = api.predict(version, keys=["one", "two"], times=None)
    assert prediction["input"] == {"keys": ["[REDACTED]", "[REDACTED]"], "times": None}
    assert prediction["output"] == "2 keys"


def test_a_model_sees_nothing_of_the_users_environment(
    api: Api, server: LocalReplicate, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REPLICATE_API_TOKEN", "PREFECT_API_KEY", "SENTRY_DSN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "private")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:private@127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    source = """
import os
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self) -> str:
        return " ".join(f"{name}={value}" for name, value in os.environ.items())
"""
    output = api.predict(server.push(model_folder(source), "acme/environment"))["output"]
    assert "private" not in output
    assert "OPENBLAS_NUM_THREADS=1" in output
    assert "HTTP_PROXY=http://127.0.0.1:9" in output


def test_an_asynchronous_model_runs_as_many_at_a_time_as_it_says(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    source = """
import asyncio
from cog import BasePredictor, concurrent
class Predictor(BasePredictor):
    def setup(self):
        self.inside, self.everyone = 0, asyncio.Event()
    @concurrent(max=3)
    async def predict(self) -> str:
        self.inside += 1
        if self.inside == 3:
            self.everyone.set()
        await self.everyone.wait()
        return "all here"
"""
    version = server.push(model_folder(source), "acme/together")
    predictions = [api.predict(version, prefer="") for _ in range(3)]
    assert [api.end(run)["output"] for run in predictions] == ["all here"] * 3


def test_a_plain_name_runs_official_models_only(
    api: Api, server: LocalReplicate, actor: str
) -> None:
    community = api.http.post("/predictions", json={"version": "acme/actor", "input": {}})
    assert community.status_code == 422
    assert community.json()["title"] == "Invalid version or not permitted"
    missing = api.http.post("/models/acme/actor/predictions", json={"input": {"text": "x"}})
    assert missing.status_code == 404


def test_an_official_model_runs_by_its_name_and_hides_its_version(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    source = """
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self) -> str:
        return "official"
"""
    server.push(model_folder(source), "acme/official", official=True)
    wait = {"Prefer": "wait"}
    by_path = api.http.post("/models/acme/official/predictions", json={"input": {}}, headers=wait)
    by_name = api.predict("acme/official")
    assert by_path.json()["output"] == by_name["output"] == "official"
    assert by_path.json()["version"] == by_name["version"] == "hidden"


def test_a_version_id_alone_is_enough(api: Api, actor: str) -> None:
    assert api.predict(actor.partition(":")[2], text="x")["model"] == "acme/actor"


@pytest.mark.parametrize(
    ("body", "kind", "field", "description"),
    [
        ({"input": {}}, "required", "input", "text is required"),
        (
            {"input": {"text": 5}},
            "invalid_type",
            "input.text",
            "Invalid type. Expected: string, given: integer",
        ),
        (
            {"input": {"text": "x", "times": 99}},
            "number_lte",
            "input.times",
            "Must be less than or equal to 10",
        ),
        (
            {"input": {"text": "x"}, "model": "m"},
            "additional_property_not_allowed",
            "(root)",
            "Additional property model is not allowed",
        ),
        ({}, "required", "(root)", "input is required"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_with_its_mistakes(
    api: Api, actor: str, body: dict[str, Any], kind: str, field: str, description: str
) -> None:
    response = api.http.post("/predictions", json={"version": actor, **body})
    problem = response.json()
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert problem["title"] == "Input validation failed"
    assert description in problem["detail"]
    assert problem["invalid_fields"] == [{"type": kind, "field": field, "description": description}]


def test_a_choice_that_is_not_offered_is_refused(api: Api, actor: str) -> None:
    body = {"version": actor, "input": {"text": "x", "act": "dance"}}
    fields = api.http.post("/predictions", json=body).json()["invalid_fields"]
    assert [(field["type"], field["field"]) for field in fields] == [("enum", "input.act")]


@pytest.mark.parametrize("version", ["0" * 64, "acme/actor:" + "0" * 64, "nobody/nothing", "???"])
def test_an_unknown_version_is_refused(api: Api, actor: str, version: str) -> None:
    response = api.http.post("/predictions", json={"version": version, "input": {"text": "x"}})
    assert response.status_code == 422
    assert response.json()["title"] == "Invalid version or not permitted"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        "file:///etc/hostname",
        "data:nonsense",
        "http:/etc/hostname",
        "https:///etc/hostname",
        "http://[",
        "",
    ],
)
def test_a_file_input_must_be_a_url(api: Api, painter: str, path: str) -> None:
    body = {"version": painter, "input": {"paper": path}}
    response = api.http.post("/predictions", json=body)
    assert response.status_code == 422
    assert response.json()["invalid_fields"][0]["field"] == "input.paper"


def test_streaming_from_a_model_that_does_not_stream_is_refused(api: Api, actor: str) -> None:
    body = {"version": actor, "input": {"text": "x"}, "stream": True}
    assert api.http.post("/predictions", json=body).status_code == 422


def test_what_a_client_gives_for_webhooks_comes_back(api: Api, actor: str) -> None:
    extra = {"webhook": "http://127.0.0.1:9/hook", "webhook_events_filter": ["completed"]}
    body = {"version": actor, "input": {"text": "x"}, **extra}
    prediction = api.http.post("/predictions", json=body).json()
    assert {name: prediction[name] for name in extra} == extra
    api.end(prediction)


def test_an_unknown_prediction_is_not_found(api: Api) -> None:
    response = api.http.get("/predictions/nothing")
    assert response.status_code == 404
    assert response.json() == {
        "detail": "The requested resource could not be found.",
        "status": 404,
    }


def test_predictions_are_listed_newest_first_a_hundred_a_page(
    server_of_its_own: Api, model_folder: ModelFolder
) -> None:
    api = server_of_its_own
    source = """
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self, number: int) -> int:
        return number
"""
    version = api.server.push(model_folder(source), "acme/number")
    made = [api.predict(version, prefer="", number=number) for number in range(103)]
    api.end(made[-1])
    first = api.http.get("/predictions").json()
    second = api.http.get(first["next"]).json()
    ids = [run["id"] for page in (first, second) for run in page["results"]]
    assert ids == [run["id"] for run in reversed(made)]
    assert (len(first["results"]), first["previous"], second["next"]) == (100, None, None)
    assert api.http.get(second["previous"]).json()["results"] == first["results"]
    after = {"created_after": made[100]["created_at"], "created_before": made[102]["created_at"]}
    between = api.http.get("/predictions", params=after).json()["results"]
    assert [run["input"]["number"] for run in between] == [101, 100]
    assert api.http.get("/predictions", params={"source": "web"}).json()["results"] == []


@pytest.mark.parametrize("name", ["created_after", "created_before"])
@pytest.mark.parametrize(
    "moment", ["yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
)
def test_a_moment_that_there_is_not_is_refused(api: Api, name: str, moment: str) -> None:
    response = api.http.get("/predictions", params={name: moment})
    assert response.status_code == 422
    assert response.json()["invalid_fields"][0]["field"] == name


def test_an_early_year_is_before_all_predictions(api: Api, actor: str) -> None:
    api.predict(actor, text="x")
    found = api.http.get("/predictions", params={"created_before": "0999-01-01T00:00:00Z"})
    assert found.json()["results"] == []


def test_a_file_input_may_write_its_scheme_in_capitals(api: Api, painter: str) -> None:
    (picture,) = api.predict(painter, paper="DATA:,ink")["output"]
    assert httpx.get(picture).content == b"ink0"


def test_only_the_wait_counts_as_a_preference_applied(api: Api, actor: str) -> None:
    body = {"version": actor, "input": {"text": "x"}}
    headers = {"Prefer": "respond-async, wait=9"}
    response = api.http.post("/predictions", json=body, headers=headers)
    assert response.headers["Preference-Applied"] == "wait=9"
