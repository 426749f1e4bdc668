"""What Replicate answers is read tolerantly, and survives JSON and pickle."""

import pickle

import pytest
from pydantic import ValidationError

from prefect_replicate.api.resources import (
    TERMINAL,
    Account,
    Deployment,
    File,
    Hardware,
    Model,
    Prediction,
    Release,
    Resource,
    Status,
    Training,
    Version,
)

# As recorded from the API in 2024, with keys of today added.
RECORDED = {
    "id": "cky59275mdrm80cpw83rcn3ej0",
    "model": "owner/name",
    "version": "hidden",
    "input": {"prompt": "hi"},
    "logs": None,
    "output": None,
    "data_removed": False,
    "error": None,
    "status": "starting",
    "created_at": "2024-10-02T17:33:58.783000123Z",
    "metrics": None,
    "webhook_completed": None,
    "urls": {"get": "https://api.replicate.com/v1/predictions/cky", "cancel": "https://x"},
}


def test_nulls_and_unknown_keys_do_no_harm_and_nothing_is_lost() -> None:
    prediction = Prediction.model_validate(RECORDED | {"brand_new": {"x": 1}})
    assert (prediction.logs, prediction.metrics) == ("", {})
    assert prediction.created_at is not None
    assert prediction.created_at.year == 2024
    assert prediction.urls.web is None
    assert prediction.model_dump()["brand_new"] == {"x": 1}


OPTIONAL = [
    (kind, name)
    for kind in (Account, Deployment, File, Hardware, Model, Prediction, Release, Training, Version)
    for name, field in kind.model_fields.items()
    if not field.is_required()
]
LEAST = {
    "id": "x",
    "status": "failed",
    "username": "me",
    "owner": "o",
    "name": "n",
    "sku": "cpu",
    "urls": {"get": "https://x"},
}


@pytest.mark.parametrize(("kind", "name"), OPTIONAL)
@pytest.mark.parametrize("odd", [None, [], {"a": [1]}, "odd", 7], ids=str)
def test_no_odd_value_of_a_field_costs_the_rest(
    kind: type[Resource], name: str, odd: object
) -> None:
    read = kind.model_validate({**LEAST, name: odd})
    assert pickle.loads(pickle.dumps(read)) == read
    assert kind.model_validate_json(read.model_dump_json()) == read


@pytest.mark.parametrize("name", ["id", "status"])
def test_what_a_job_cannot_be_without_is_not_made_up(name: str) -> None:
    with pytest.raises(ValidationError):
        Prediction.model_validate({**LEAST, name: None})


def test_a_models_own_words_are_kept_whatever_they_are_made_of() -> None:
    failed = {"id": "x", "status": "failed", "error": {"a": 1}}
    assert Prediction.model_validate(failed).error == '{"a": 1}'


def test_an_odd_date_does_not_cost_the_job() -> None:
    assert Prediction.model_validate(RECORDED | {"created_at": "yesterday"}).created_at is None


@pytest.mark.parametrize("status", list(Status))
def test_every_documented_status_is_final_or_not(status: Status) -> None:
    final = {"succeeded", "failed", "canceled", "aborted"}
    assert (status in TERMINAL) is (status.value in final)
    assert Prediction(id="x", status=status.value).done is (status.value in final)


def test_an_unknown_status_is_kept_and_not_final() -> None:
    prediction = Prediction.model_validate(RECORDED | {"status": "hibernating"})
    assert (prediction.status, prediction.done) == ("hibernating", False)


@pytest.mark.parametrize(
    ("output", "text"),
    [("hi", "hi"), (["h", "i"], "hi"), ([], ""), (None, ""), ({"a": 1}, ""), (["a", 1], "")],
)
def test_a_language_models_pieces_read_as_one_text(output: object, text: str) -> None:
    assert Prediction(id="x", status="succeeded", output=output).text == text


def test_a_training_names_the_version_it_made() -> None:
    made = {"version": "me/mine:abc", "weights": "https://x"}
    assert Training(id="x", status="succeeded", output=made).trained_version == "me/mine:abc"
    assert Training(id="x", status="processing").trained_version is None
    assert Training(id="x", status="succeeded", output="odd").trained_version is None


def test_resources_survive_json_and_pickle() -> None:
    prediction = Prediction.model_validate(RECORDED)
    assert Prediction.model_validate_json(prediction.model_dump_json()) == prediction
    assert pickle.loads(pickle.dumps(prediction)) == prediction


def test_a_deployment_without_a_release_is_still_one() -> None:
    assert Deployment.model_validate({"owner": "o", "name": "n"}).reference == "o/n"
