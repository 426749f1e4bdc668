"""Find models: by words, and in the collections that Replicate curates."""

from __future__ import annotations

from prefect_replicate.api import calls
from prefect_replicate.api.errors import BadInputError
from prefect_replicate.api.resources import Collection, SearchResults
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.tasks.twins import twins


async def _search(
    query: str, *, most: int = 20, credentials: ReplicateCredentials | None = None
) -> SearchResults:
    """Search public models, collections and pages of Replicate's site by words, best first.

    Args:
        query: The words.
        most: Models at most, 1 to 50.
        credentials: Whose token asks; the default credentials if None.

    Returns:
        `.models` have the `.model` each, and a `.metadata` with score and tags; further
        `.collections` and `.pages`. Replicate calls this a beta that may change.

    Raises:
        BadInputError: No words, or `most` is out of bounds.
    """
    if not (query.strip() and 1 <= most <= 50):
        raise BadInputError(
            f"A search has words and asks for 1 to 50 models, not {query!r} and {most}. Nothing "
            f"was sent."
        )
    client = await client_for(credentials)
    return await client.send(calls.search(query, limit=most))


async def _list_collections(
    *, most: int = 100, credentials: ReplicateCredentials | None = None
) -> list[Collection]:
    """List the collections of models that Replicate curates, at most so many, without the models.

    Pass a `.slug` to `get_collection` for those.
    """
    client = await client_for(credentials)
    return await client.first(calls.collections_list(), most)


async def _get_collection(
    slug: str, *, credentials: ReplicateCredentials | None = None
) -> Collection:
    """Read one collection, by its slug, with its models.

    Raises:
        NotFoundError: There is none.
    """
    client = await client_for(credentials)
    return await client.send(calls.collections_get(slug))


search, asearch = twins(_search, lambda p: f"search {p['query'][:40]}")
list_collections, alist_collections = twins(_list_collections, lambda _: "list collections")
get_collection, aget_collection = twins(_get_collection, lambda p: f"get collection {p['slug']}")
