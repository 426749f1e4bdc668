"""What the official Node client does against Local Replicate; the scripts are in node/."""

import httpx
import pytest

from tests.clients.conftest import Models, Node, Said

INK = "ink é\r\n--not a boundary"
MARMALADE = {"owner": "local", "name": "node-marmalade", "visibility": "private"}


def number(reference: str) -> str:
    return reference.partition(":")[2]


# --- runs and streams ---


@pytest.fixture(scope="module")
def runs(node: Node) -> Said:
    return node("runs.mjs")


@pytest.mark.parametrize(
    ("step", "output"),
    [
        ("text", "base: hihi"),
        ("official", "by name"),
        ("polled", "base: hi"),
        ("late", "base: late"),  # after the wait that the run asked for
        ("iterator", ["0 ", "1 ", "2 "]),
    ],
)
def test_a_run_gives_what_the_model_returns(runs: Said, step: str, output: str) -> None:
    assert runs[step] == output


def test_files_over_http_stay_strings(runs: Said) -> None:
    assert [httpx.get(url).content for url in runs["files"]] == [b"blank0", b"blank1"]
    assert runs["contents"] == ["blank0", "blank1"]


def test_a_data_uri_becomes_a_file_output(runs: Said) -> None:
    uri = "data:text/plain;base64,cGFwZXI="
    assert runs["file output"] == {"url": uri, "text": "paper"}
    assert runs["no file output"] == uri


def test_a_run_tells_of_its_progress(runs: Said) -> None:
    assert runs["progress"][0] == "starting"
    assert runs["progress"][-1] == "succeeded"
    assert runs["bar"] == {"percentage": 0.5, "current": 1, "total": 2}


def test_a_prediction_is_created_and_waited_for(runs: Said) -> None:
    logs = "asked to say\na warning\n"
    followed = {"first": "starting", "last": "succeeded", "output": "base: x", "logs": logs}
    assert runs["created"] == followed
    assert (runs["waited"]["status"], runs["waited"]["output"]) == ("succeeded", "base: x")
    assert runs["waited"]["metrics"]["words"] == 1


def test_a_prediction_is_canceled(runs: Said) -> None:
    assert runs["canceled"] == ["canceled", "canceled"]
    assert runs["aborted"] == "canceled"


def test_a_stream_gives_output_as_it_comes(runs: Said) -> None:
    outputs = [["output", part, part] for part in ("0 ", "1 ", "2 ")]
    assert runs["stream"] == [*outputs, ["done", "{}", ""]] == runs["stream by name"]


def test_a_stream_of_a_canceled_prediction_ends(runs: Said) -> None:
    assert runs["canceled stream"] == 'data: {"reason":"canceled"}'


def test_a_stream_ends_with_the_models_error(runs: Said) -> None:
    detail = '{"detail":"ValueError: sleep length must be non-negative"}'
    assert runs["broken stream"]["error"] == detail


def test_a_model_without_a_stream_is_not_streamed(runs: Said) -> None:
    assert runs["stream of text"]["error"] == "Prediction does not support streaming"


# --- files that go in ---


@pytest.fixture(scope="module")
def files(node: Node) -> Said:
    return node("files.mjs")


@pytest.mark.parametrize("strategy", ["default", "upload"])
@pytest.mark.parametrize("form", ["buffer", "blob", "file"])
def test_a_file_goes_in_in_every_way(files: Said, form: str, strategy: str) -> None:
    assert files[f"{form} {strategy}"] == INK


def test_a_file_goes_in_as_a_data_uri_where_uploads_fail(files: Said) -> None:
    assert files["data uri"] == INK


def test_an_upload_has_name_type_and_metadata(files: Said) -> None:
    file = files["upload"]
    assert (file["name"], file["content_type"]) == ("encre é.txt", "text/plain")
    assert (file["size"], file["metadata"]) == (len(INK.encode()), {"kind": "draft"})
    assert files["upload of a buffer"]["metadata"] == {}


def test_a_file_is_stored_listed_and_deleted(files: Said) -> None:
    assert files["stored"] == {"same": True, "listed": True, "deleted": True}
    assert files["gone"]["status"] == 404


# --- models, trainings, deployments, lists ---


@pytest.fixture(scope="module")
def resources(node: Node) -> Said:
    return node("resources.mjs")


def test_account_hardware_and_collections_are_read(resources: Said) -> None:
    assert (resources["account"]["type"], resources["account"]["username"]) == ("user", "local")
    assert {"name": "CPU", "sku": "cpu"} in resources["hardware"]
    assert [each["slug"] for each in resources["collections"]["results"]] == ["local"]
    assert resources["collection"]


def test_a_model_is_created_once_and_found(resources: Said) -> None:
    assert resources["model"].items() >= MARMALADE.items()
    assert resources["model found"] == resources["model"]
    assert resources["model again"]["status"] == 409
    assert resources["search"] == ["node-marmalade"]


def test_a_model_has_its_versions(resources: Said, models: Models) -> None:
    assert resources["versions"] == [number(models.echo)] == [resources["version"]["id"]]
    schemas = resources["version"]["openapi_schema"]["components"]["schemas"]
    assert list(schemas["Input"]["properties"]) == ["text"]


def test_a_training_makes_a_version_that_runs(resources: Said) -> None:
    training = resources["training"]
    assert (training["first"], training["status"]) == ("starting", "succeeded")
    assert training["output"]["version"].startswith("local/node-tuned:")
    assert httpx.get(training["output"]["weights"]).text == "tuned on notes"
    assert resources["tuned"] == "tuned on notes: x"


def test_a_training_is_canceled_and_listed(resources: Said) -> None:
    assert resources["training canceled"] == "canceled"


def test_a_training_needs_a_destination_that_is_there(resources: Said) -> None:
    assert resources["training nowhere"]["status"] == 404
    assert "training destination does not exist" in resources["training nowhere"]["error"]


def test_a_deployment_lives(resources: Said, models: Models) -> None:
    release = resources["deployment"]["current_release"]
    assert (release["number"], release["version"]) == (1, number(models.copier))
    assert resources["deployment found"] == resources["deployment"]
    assert resources["deployment listed"]
    assert resources["deployment used"] == "ink"
    changed = resources["deployment changed"]["current_release"]
    assert (changed["number"], changed["configuration"]["max_instances"]) == (2, 2)
    assert resources["deployment deleted"]
    assert resources["deployment gone"]["status"] == 404


@pytest.mark.parametrize(("kind", "size"), [("models", 25), ("predictions", 100)])
def test_a_list_is_paged_through(resources: Said, kind: str, size: int) -> None:
    assert resources[f"pages of {kind}"] == {"first": size, "all": True, "twice": 0}


# --- webhooks ---


@pytest.fixture(scope="module")
def webhooks(node: Node) -> Said:
    return node("webhooks.mjs")


def test_a_webhook_passes_the_clients_own_check(webhooks: Said) -> None:
    assert webhooks["secret"]["key"].startswith("whsec_")
    assert webhooks["told"]["same"]
    assert (webhooks["told"]["status"], webhooks["told"]["output"]) == ("succeeded", "héllo")
    assert webhooks["valid"] is True
    assert webhooks["valid by parts"] is True


def test_a_forged_webhook_fails_that_check(webhooks: Said) -> None:
    assert webhooks["forged"] is False
    assert webhooks["wrong secret"] is False


# --- errors ---


@pytest.fixture(scope="module")
def errors(node: Node) -> Said:
    return node("errors.mjs")


@pytest.mark.parametrize("step", ["failed", "failed while polling"])
def test_a_failed_model_is_an_error(errors: Said, step: str) -> None:
    assert errors[step]["error"] == "Prediction failed: ValueError: I cannot"


@pytest.mark.parametrize(
    ("step", "status", "words"),
    [
        ("missing input", 422, "text is required"),
        ("wrong input", 422, "input.times: Must be less than or equal to 10"),
        ("unknown version", 422, "Invalid version or not permitted"),
        ("community model", 404, "could not be found"),
        ("no prediction", 404, "could not be found"),
        ("no prediction to cancel", 404, "could not be found"),
        ("no training", 404, "could not be found"),
        ("no model", 404, "could not be found"),
        ("no deployment", 404, "could not be found"),
        ("wrong token", 401, "You did not pass a valid authentication token"),
    ],
)
def test_a_refusal_tells_its_status_and_reason(
    errors: Said, step: str, status: int, words: str
) -> None:
    assert errors[step]["status"] == status
    assert words in errors[step]["error"]
