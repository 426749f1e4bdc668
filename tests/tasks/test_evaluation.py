"""Scores come from held-out predictions, and say how they were made."""

from pathlib import Path

import pytest

from prefect_replicate import (
    BadInputError,
    Evaluation,
    EvaluationError,
    Example,
    LocalReplicate,
    ModelError,
    Prediction,
    ReplicateCredentials,
    Score,
    aevaluate_model,
    evaluate_model,
    find_scorer,
    read_examples,
)
from tests.tasks.conftest import jobs


@pytest.mark.parametrize(
    ("name", "output", "expected", "value"),
    [
        ("exact_match", " yes\n", "yes", 1.0),
        ("exact_match", "yes!", "yes", 0.0),
        ("contains", "oh yes!", "yes", 1.0),
        ("contains", "no", "yes", 0.0),
        ("similarity", "abcd", "abxd", 0.75),  # 2 * 3 equal characters / 8
        ("similarity", ["ab", "cd"], "abcd", 1.0),
        ("lowest:loss", "", None, 2.5),
        ("highest:loss", "", None, 2.5),
    ],
)
def test_scorers_put_a_number_on_a_prediction(
    name: str, output: object, expected: str | None, value: float
) -> None:
    prediction = Prediction(id="x", status="succeeded", output=output, metrics={"loss": 2.5})
    rating = find_scorer(name)
    assert rating.rate(prediction, Example(input={}, expected=expected)) == value
    assert rating.higher_is_better is (name != "lowest:loss")


@pytest.mark.parametrize("name", ["", "best", "lowest", "lowest:", "middle:loss"])
def test_an_unknown_scorer_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(BadInputError, match="exact_match, contains, similarity, lowest:METRIC"):
        find_scorer(name)


def test_a_metric_that_the_model_did_not_record_is_named_with_those_it_did() -> None:
    prediction = Prediction(id="x", status="succeeded", metrics={"predict_time": 1.0})
    with pytest.raises(BadInputError, match=r"no number 'loss'.*It recorded: predict_time"):
        find_scorer("lowest:loss").rate(prediction, Example(input={}))


def _evaluation(score: float, *, up: bool = True, examples: int = 1) -> Evaluation:
    scores = [Score(prediction_id="x", value=score)] * examples
    return Evaluation(ref="r", scorer="s", higher_is_better=up, score=score, scores=scores)


def test_better_is_better_in_the_scorers_own_direction_and_equal_is_not() -> None:
    assert _evaluation(2).beats(_evaluation(1))
    assert not _evaluation(1).beats(_evaluation(1))
    assert _evaluation(1, up=False).beats(_evaluation(2, up=False))
    with pytest.raises(BadInputError, match="not scored alike"):
        _evaluation(1).beats(_evaluation(2, examples=2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no examples in"),
        ("\n \n", "no examples in"),
        ('{"input": {}}\nnot json', "Line 2 of"),
        ('{"inputs": {}}', r"Line 1 of .*input.*Field required"),
        ('{"input": {}, "expect": "x"}', "expect"),
        ("[]", "Line 1 of"),
    ],
)
def test_examples_that_are_none_are_refused_by_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text(text)
    with pytest.raises(BadInputError, match=words) as caught:
        read_examples(path)
    assert str(path) in str(caught.value)


def test_a_line_ends_where_json_lines_end(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_bytes('\ufeff{"input": {"text": "a\u2028b\x85c"}}\r\n'.encode())
    assert read_examples(path) == [Example(input={"text": "a\u2028b\x85c"})]


def test_examples_must_be_text(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInputError, match="not UTF-8"):
        read_examples(path)


def test_a_model_is_scored_by_one_prediction_an_example(
    credentials: ReplicateCredentials, tiny_model: str, replicate: LocalReplicate, tmp_path: Path
) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text(
        '{"input": {"text": "a"}, "expected": "a"}\n{"input": {"text": "b"}, "expected": "x"}\n'
    )
    scored = evaluate_model(tiny_model, path, "exact_match", credentials=credentials)
    assert (scored.score, [score.value for score in scored.scores]) == (0.5, [1.0, 0.0])
    ids = {job["id"] for job in jobs(replicate)}
    assert {score.prediction_id for score in scored.scores} <= ids


async def test_examples_may_be_given_as_they_are(
    credentials: ReplicateCredentials, tiny_model: str
) -> None:
    examples: list[Example | dict[str, object]] = [
        {"input": {"text": "four"}},
        Example(input={"text": "six..."}),
    ]
    scored = await aevaluate_model(
        tiny_model, examples, "highest:length", credentials=credentials, at_once=1
    )
    assert scored.score == 5.0  # (4 + 6) / 2


def test_mistakes_show_before_anything_is_paid_for(
    credentials: ReplicateCredentials, tiny_model: str, replicate: LocalReplicate
) -> None:
    before = len(jobs(replicate))
    with pytest.raises(BadInputError, match="some examples have none"):
        evaluate_model(tiny_model, [{"input": {}}], "contains", credentials=credentials)
    with pytest.raises(BadInputError, match="`at_once` is 1 or more"):
        evaluate_model(
            tiny_model, [{"input": {}}], "highest:length", at_once=0, credentials=credentials
        )
    with pytest.raises(BadInputError, match="no scorer"):
        evaluate_model(tiny_model, [{"input": {}}], "best", credentials=credentials)
    assert len(jobs(replicate)) == before


def test_a_passing_trouble_costs_one_example_and_not_all_of_them(
    credentials: ReplicateCredentials,
    tiny_model: str,
    replicate: LocalReplicate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prefect_replicate.jobs.batch.RETRY_DELAYS", (0.0, 0.0))
    before = len(jobs(replicate))
    examples = [
        Example(input={"text": "good"}),
        Example(input={"do": "fail", "text": "interrupted; please retry (code: PA)"}),
    ]
    with pytest.raises(EvaluationError, match=r"tried 3 times.*have been paid for"):
        evaluate_model.with_options(retries=2, retry_delay_seconds=0)(
            tiny_model, examples, "highest:length", credentials=credentials
        )
    assert len(jobs(replicate)) - before == 1 + 3


def test_one_failure_ends_the_evaluation_and_cancels_what_still_runs(
    credentials: ReplicateCredentials, tiny_model: str, replicate: LocalReplicate
) -> None:
    examples = [
        Example(input={"do": "fail"}),
        Example(input={"do": "sleep", "number": 98}),
    ]
    with pytest.raises(ModelError):
        evaluate_model(tiny_model, examples, "highest:length", credentials=credentials)
    unfinished = {"starting", "processing"}
    assert not [job for job in jobs(replicate) if job["status"] in unfinished]
