"""The account that a token belongs to, and what its webhooks are signed with."""

from __future__ import annotations

from prefect_replicate.api import calls
from prefect_replicate.api.resources import Account, WebhookSecret
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.tasks.twins import twins


async def _get_account(*, credentials: ReplicateCredentials | None = None) -> Account:
    """Read whose token it is.

    Raises:
        AuthenticationError: The API does not know the token.
    """
    client = await client_for(credentials)
    return await client.send(calls.account_get())


async def _get_webhook_secret(*, credentials: ReplicateCredentials | None = None) -> WebhookSecret:
    """Read what Replicate signs the account's webhooks with.

    `.key` is a secret; nothing shows it. Prefect writes what a task returns to its storage where
    results are persisted, and then it is in there.

    Raises:
        AuthenticationError: The API does not know the token.
    """
    client = await client_for(credentials)
    return await client.send(calls.webhooks_default_secret_get())


get_account, aget_account = twins(_get_account, lambda _: "get account")
get_webhook_secret, aget_webhook_secret = twins(_get_webhook_secret, lambda _: "get webhook secret")
