"""Words against models and collections: which fit, and how well. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from prefect_replicate.local.records import Model

_WORD = re.compile(r"[^\W_]+")
# How much a word counts in each place; half of it if it is only a part of a word there.
_NAME, _ABOUT, _README = 4.0, 2.0, 1.0


def rank(query: str, models: Iterable[Model]) -> list[tuple[float, Model]]:
    """The models that have a word of the query, with their scores, best first.

    Of equals, what was run more often comes first, then what comes first in the alphabet.
    """
    scored = [(score(query, _texts(model)), model) for model in models]
    found = [(points, model) for points, model in scored if points]
    return sorted(found, key=lambda hit: (-hit[0], -hit[1].run_count, hit[1].owner, hit[1].name))


def score(query: str, texts: Sequence[tuple[str, float]]) -> float:
    """How well texts fit a query: for each of its words the best place where it stands.

    Args:
        query: The words; their order and case do not matter.
        texts: Where to look, and how much a whole word counts there.
    """
    places = [(set(_words(text)), weight) for text, weight in texts]
    return sum(
        max((weight * _fit(word, words) for words, weight in places), default=0.0)
        for word in set(_words(query))
    )


def about(name: str, description: str | None, readme: str | None = None) -> list[tuple[str, float]]:
    """What is said of a thing, as `score` takes it."""
    return [(name, _NAME), (description or "", _ABOUT), (readme or "", _README)]


def _texts(model: Model) -> list[tuple[str, float]]:
    return about(f"{model.owner}/{model.name}", model.description, model.readme)


def _fit(word: str, words: set[str]) -> float:
    if word in words:
        return 1.0
    return 0.5 if any(word in other for other in words) else 0.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
