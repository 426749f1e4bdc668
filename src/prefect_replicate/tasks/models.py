"""Models: the places that versions live in."""

from __future__ import annotations

from typing import Literal

from prefect_replicate.api import calls
from prefect_replicate.api.errors import BadInputError, NotFoundError
from prefect_replicate.api.references import parse_name
from prefect_replicate.api.resources import Model
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.tasks.twins import twins


async def _ensure_model(
    model: str,
    *,
    hardware: str = "cpu",
    visibility: Literal["private", "public"] = "private",
    credentials: ReplicateCredentials | None = None,
) -> Model:
    """Create a model unless it exists, so that a training has a destination.

    Args:
        model: "owner/name"; the owner is the token's account or one of its organizations.
        hardware: SKU that predictions of a new model run on.
        visibility: Who can see a new model.
        credentials: Whose model it is; the default credentials if None.

    Returns:
        The model. One that existed keeps its own hardware and visibility.

    Raises:
        BadReferenceError: The name is malformed.
        AuthenticationError: The token may not create models for this owner.
    """
    name = parse_name(model)
    client = await client_for(credentials)
    try:
        return await client.send(calls.models_get(name))
    except NotFoundError:
        pass
    try:
        call = calls.models_create(name, visibility=visibility, hardware=hardware)
        return await client.send(call)
    except BadInputError as error:
        if error.status != 409:
            raise
    return await client.send(calls.models_get(name))  # Somebody else was faster.


ensure_model, aensure_model = twins(_ensure_model, lambda p: f"ensure model {p['model']}")
