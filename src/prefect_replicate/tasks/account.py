"""The account that a token belongs to."""

from __future__ import annotations

from prefect_replicate.api import calls
from prefect_replicate.api.resources import Account
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.tasks.twins import twins


async def _get_account(*, credentials: ReplicateCredentials | None = None) -> Account:
    """Read whose token it is.

    Raises:
        AuthenticationError: The API does not know the token.
    """
    client = await client_for(credentials)
    return await client.send(calls.account_get())


get_account, aget_account = twins(_get_account, lambda _: "get account")
