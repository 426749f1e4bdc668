"""Whose token is used, and for which API."""

from __future__ import annotations

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, HttpUrl, SecretStr

from prefect_replicate.api import calls
from prefect_replicate.api.client import REPLICATE, Access, Client
from prefect_replicate.api.errors import ConfigurationError
from prefect_replicate.api.resources import Account
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.ledger import Claim
from prefect_replicate.settings import ReplicateSettings

# GitHub serves an organization's square picture under this name.
LOGO = HttpUrl("https://github.com/replicate.png")
DOCUMENTATION = HttpUrl("https://replicate.com/docs/reference/http")


class ReplicateCredentials(CredentialsBlock):
    """An API token for Replicate, or for anything that speaks its API.

    Attributes:
        api_token: API token; it is kept as a secret and sent to the API's own host only.
        base_url: URL of the API, with or without /v1.

    Example:
        ```python
        from prefect_replicate import ReplicateCredentials

        credentials = ReplicateCredentials.load("BLOCK_NAME")
        print(credentials.verify().username)
        ```
    """

    _block_type_name = "Replicate Credentials"
    _block_type_slug = "replicate-credentials"
    _logo_url = LOGO
    _documentation_url = DOCUMENTATION
    _description = "An API token for Replicate, or for anything that speaks its API."

    api_token: SecretStr = Field(description="API token; it begins with 'r8_' on replicate.com.")
    base_url: str = Field(default=REPLICATE, description="URL of the API, with or without /v1.")

    @property
    def access(self) -> Access:
        """The token and its API as a plain value."""
        # An anonymous block, as one that is part of another, has a name that cannot be loaded.
        saved_as = None if self._is_anonymous else self._block_document_name
        return Access(self.base_url, self.api_token.get_secret_value(), saved_as)

    def get_client(self) -> Client:
        """An async client of your own; close it, or use it with `async with`.

        Raises:
            ConfigurationError: The base URL is none.
        """
        return Client(self.access)

    def verify(self) -> Account:
        """Ask the API whose token it is.

        Raises:
            AuthenticationError: The API does not know the token.
            TransportError: The API cannot be reached.
        """
        return engine().run(self._verify)

    async def averify(self) -> Account:
        """As `verify`."""
        return await engine().arun(self._verify)

    async def _verify(self) -> Account:
        return await engine().client(self.access).send(calls.account_get())


async def client_for(credentials: ReplicateCredentials | None) -> Client:
    """The engine's client for these credentials, or for the default ones; to be called on its loop.

    Raises:
        ConfigurationError: No credentials were given, and no default is set up.
    """
    chosen = credentials or await default_credentials()
    return engine().client(chosen.access)


async def default_credentials() -> ReplicateCredentials:
    """The block that the settings name, else the token in the environment.

    Raises:
        ConfigurationError: There is neither, or no block of that name.
    """
    settings = ReplicateSettings()
    if name := settings.credentials_block:
        return await _load(name)
    if settings.api_token and settings.api_token.get_secret_value():
        return ReplicateCredentials(api_token=settings.api_token, base_url=settings.base_url)
    raise ConfigurationError(
        "No Replicate credentials: pass `credentials=ReplicateCredentials(api_token=...)`, or name "
        "a saved block in PREFECT_INTEGRATIONS_REPLICATE_CREDENTIALS_BLOCK, or set "
        "REPLICATE_API_TOKEN (tokens are made at https://replicate.com/account/api-tokens). To try "
        "things without a token, use Local Replicate: `with LocalReplicate() as server: ...` and "
        "`credentials=server.credentials`. Nothing was sent."
    )


async def payer_of(claim: Claim, credentials: ReplicateCredentials | None = None) -> Client:
    """Who can see and cancel the job of a claim, in a process that did not make it.

    Args:
        claim: It.
        credentials: What to use instead of those that made it, and of the default ones.

    Raises:
        ConfigurationError: There are no credentials, or they are of another account or API.
    """
    saved = await _load(claim.block) if claim.block and credentials is None else credentials
    client = await client_for(saved)
    if client.base_url != claim.api or (account := await client.account()) != claim.account:
        whose = client.base_url if client.base_url != claim.api else account
        raise ConfigurationError(
            f"A job was made as {claim.account!r} at {claim.api}, and the credentials at hand are "
            f"of {whose!r}, who cannot cancel it. Name the right ReplicateCredentials block. The "
            f"job runs on until its deadline, and is charged for."
        )
    return client


async def _load(name: str) -> ReplicateCredentials:
    try:
        loaded = await ReplicateCredentials.aload(name)
    except ValueError as error:
        raise ConfigurationError(
            f"There is no ReplicateCredentials block named {name!r} on this Prefect server, though "
            f"the setting PREFECT_INTEGRATIONS_REPLICATE_CREDENTIALS_BLOCK names it. Save one: "
            f"ReplicateCredentials(api_token=...).save({name!r}). Nothing was sent."
        ) from error
    return loaded
