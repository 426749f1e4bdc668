"""Score a model on held-out examples, through predictions like anybody's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import BadInputError, EvaluationError, ReplicateError
from prefect_replicate.api.resources import Prediction
from prefect_replicate.api.retries import transient
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.jobs import batch
from prefect_replicate.jobs.batch import predict, together
from prefect_replicate.jobs.items import Items
from prefect_replicate.jobs.targets import Target, resolve
from prefect_replicate.jobs.watch import Patience, patience
from prefect_replicate.outputs.store import reading
from prefect_replicate.tasks.predictions import short
from prefect_replicate.tasks.twins import twins


class Example(BaseModel):
    """One held-out example: a model's input, and the output it should give where that is known."""

    model_config = ConfigDict(extra="forbid")

    input: dict[str, Any]
    expected: str | None = None


class Score(BaseModel):
    """What one prediction was worth."""

    prediction_id: str
    value: float


class Evaluation(BaseModel):
    """How well a model did on held-out examples. `score` is the mean over them."""

    ref: str
    scorer: str
    higher_is_better: bool
    score: float
    scores: list[Score]

    def beats(self, other: Evaluation) -> bool:
        """Whether this score is better than the other; equal is not better.

        Raises:
            BadInputError: They were measured differently.
        """
        if (self.scorer, len(self.scores)) != (other.scorer, len(other.scores)):
            raise BadInputError(
                f"'{self.ref}' and '{other.ref}' were not scored alike: {self.scorer} on "
                f"{len(self.scores)} examples and {other.scorer} on {len(other.scores)}."
            )
        return self.score > other.score if self.higher_is_better else self.score < other.score


@dataclass(frozen=True, slots=True)
class Scorer:
    """A way to put a number on a prediction.

    Attributes:
        higher_is_better: Which way is up.
        needs_expected: It compares with `Example.expected`.
        rate: From a succeeded prediction and its example to the number.
    """

    higher_is_better: bool
    needs_expected: bool
    rate: Callable[[Prediction, Example], float]


def _exact_match(prediction: Prediction, example: Example) -> float:
    return float(prediction.text.strip() == (example.expected or "").strip())


def _contains(prediction: Prediction, example: Example) -> float:
    return float((example.expected or "") in prediction.text)


def _similarity(prediction: Prediction, example: Example) -> float:
    return SequenceMatcher(None, prediction.text, example.expected or "", autojunk=False).ratio()


_COMPARING = {"exact_match": _exact_match, "contains": _contains, "similarity": _similarity}


def find_scorer(name: str) -> Scorer:
    """Find a `Scorer` by its name.

    Args:
        name: "exact_match", "contains" or "similarity" (0 to 1, by characters), which compare the
            output text with `expected`; or "lowest:METRIC" or "highest:METRIC", which read a
            number that the model itself recorded among the prediction's metrics.

    Raises:
        BadInputError: There is none of that name.
    """
    if name in _COMPARING:
        return Scorer(higher_is_better=True, needs_expected=True, rate=_COMPARING[name])
    way, _, metric = name.partition(":")
    if way not in {"lowest", "highest"} or not metric:
        known = ", ".join([*_COMPARING, "lowest:METRIC", "highest:METRIC"])
        raise BadInputError(f"There is no scorer {name!r}. There are: {known}. Nothing was sent.")

    def rate(prediction: Prediction, _: Example) -> float:
        value = prediction.metrics.get(metric)
        if not isinstance(value, int | float):
            raise BadInputError(
                f"Prediction {prediction.id} of '{prediction.reference}' recorded no number "
                f"{metric!r}, so {name!r} cannot score it. It recorded: "
                f"{', '.join(prediction.metrics) or 'nothing'}. It has been paid for."
            )
        return float(value)

    return Scorer(higher_is_better=way == "highest", needs_expected=False, rate=rate)


def parse_examples(text: str, source: str) -> list[Example]:
    """Read examples, one JSON object a line: `{"input": {...}, "expected": "..."}`.

    Raises:
        BadInputError: A line is not that, or there is none.
    """
    # Not splitlines(): JSON may hold characters that it takes for line breaks.
    lines = [(at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _examples(
        [(f"Line {at} of {source}", line) for at, line in lines],
        Example.model_validate_json,
        source,
    )


def _examples(
    given: Sequence[tuple[str, Any]], read: Callable[[Any], Example], source: str
) -> list[Example]:
    examples = []
    for where, value in given:
        try:
            examples.append(read(value))
        except ValidationError as error:
            found = error.errors()[0]
            part = ".".join(map(str, found["loc"])) or "JSON"
            raise BadInputError(
                f'{where} is no example ({part}: {found["msg"]}). One is {{"input": {{...}}, '
                f'"expected": "..."}}. Nothing was sent.'
            ) from error
    if not examples:
        raise BadInputError(f"There are no examples in {source}. Nothing was sent.")
    return examples


def read_examples(source: str | Path) -> list[Example]:
    """Read held-out examples from a path or any URL, so that mistakes show before money is spent.

    Raises:
        BadInputError: It cannot be read, or a line is no example.
    """
    with reading(str(source)) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{source} is not UTF-8 text: {error}. Nothing was sent.") from error
    return parse_examples(text, str(source))


async def _evaluate_model(
    ref: str,
    examples: str | Path | Sequence[Example | Mapping[str, Any]],
    scorer: str,
    *,
    credentials: ReplicateCredentials | None = None,
    at_once: int = 8,
    deadline: float | None = None,
) -> Evaluation:
    """Score a model on held-out examples: one prediction each, made over HTTP like any other.

    Args:
        ref: As in `run_model`.
        examples: Path or URL of a file with one `{"input": {...}, "expected": "..."}` a line, or
            such objects themselves, whose inputs may hold files as in `run_model`.
        scorer: "exact_match", "contains", "similarity", "lowest:METRIC" or "highest:METRIC".
        credentials: Who pays; the default credentials if None.
        at_once: Predictions that run at the same time, 1 or more.
        deadline: Seconds after which a prediction is canceled, and with it the evaluation.

    Raises:
        BadInputError: The examples or the scorer are wrong; nothing was charged.
        ModelError: A prediction failed; those still running were canceled.
        EvaluationError: A passing trouble did not pass. A retry of the task does not repeat it.
    """
    rating, waiting = find_scorer(scorer), patience(deadline)
    chosen = await _chosen(examples)
    if rating.needs_expected and any(example.expected is None for example in chosen):
        raise BadInputError(
            f"{scorer!r} compares with 'expected', and some examples have none. Nothing was sent."
        )
    if at_once < 1:
        raise BadInputError(f"`at_once` is 1 or more, not {at_once}. Nothing was sent.")
    client = await client_for(credentials)
    target = await resolve(client, ref, None)
    free, items = asyncio.Semaphore(at_once), Items()

    async def score(example: Example) -> Score:
        async with free:
            prediction = await _predicted(client, target, example, waiting, items)
        return Score(prediction_id=prediction.id, value=rating.rate(prediction, example))

    scores = await together(score(example) for example in chosen)
    mean = fmean(score.value for score in scores)
    if not math.isfinite(mean):
        raise BadInputError(f"The mean of {scorer!r} over '{ref}' is {mean}, which ranks nothing.")
    return Evaluation(
        ref=target.ref,
        scorer=scorer,
        higher_is_better=rating.higher_is_better,
        score=mean,
        scores=scores,
    )


async def _predicted(
    client: Client, target: Target[Prediction], example: Example, waiting: Patience, items: Items
) -> Prediction:
    try:
        return await predict(client, target, example.input, waiting, items=items)
    except ReplicateError as error:
        if not transient(error):
            raise
        # Not one that a retry of the task would take for a reason to pay for all of them again.
        raise EvaluationError(
            f"{error} It was tried {len(batch.RETRY_DELAYS) + 1} times. Examples scored before "
            f"have been paid for, and are paid for again if you repeat the evaluation."
        ) from error


async def _chosen(examples: str | Path | Sequence[Example | Mapping[str, Any]]) -> list[Example]:
    if isinstance(examples, str | Path):
        return await asyncio.to_thread(read_examples, examples)
    given = [(f"Example {at}", example) for at, example in enumerate(examples)]
    return _examples(given, Example.model_validate, "the list given")


evaluate_model, aevaluate_model = twins(
    _evaluate_model, lambda p: f"evaluate {short(p['ref'])} by {p['scorer']}"
)
