"""Where Replicate's webhooks arrive, and what they are signed with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from prefect_replicate.api import calls
from prefect_replicate.api.errors import ConfigurationError
from prefect_replicate.api.resources import Job
from prefect_replicate.blocks.credentials import (
    DOCUMENTATION,
    LOGO,
    ReplicateCredentials,
    client_for,
)
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.flow_run import flow_run_id
from prefect_replicate.jobs.watch import Wait, patience, rejoin
from prefect_replicate.settings import ReplicateSettings
from prefect_replicate.webhooks.mailbox import Address, new_mail_key, webhook_url
from prefect_replicate.webhooks.signatures import TOLERANCE

if TYPE_CHECKING:
    from prefect_replicate.webhooks.receiver import Receiver

J = TypeVar("J", bound=Job)
Event: TypeAlias = Literal["start", "output", "logs", "completed"]


class ReplicateWebhook(Block):
    """Where Replicate tells that a job has ended, instead of being asked again and again.

    Attributes:
        public_url: URL under which Replicate reaches the receiver.
        events: What to be told of; "completed" must be among them.
        signing_secret: What webhooks are signed with; fetched from the API if it is not given.
        credentials: Where to fetch it; the default credentials if they are not given.
        tolerance: Seconds that the clocks may be apart.

    Example:
        ```python
        from prefect_replicate import ReplicateWebhook

        webhook = ReplicateWebhook.load("BLOCK_NAME")
        app = webhook.receiver()  # an ASGI app, for `uvicorn module:app`
        ```
    """

    _block_type_name = "Replicate Webhook"
    _block_type_slug = "replicate-webhook"
    _logo_url = LOGO
    _documentation_url = DOCUMENTATION
    _description = "Where Replicate's webhooks arrive, and what they are signed with."

    public_url: str = Field(
        description="URL under which Replicate reaches the receiver; replicate.com asks for https."
    )
    events: list[Event] = Field(
        default=["completed"],
        description="What to be told of; 'completed' must be among them, as it ends a wait.",
    )
    signing_secret: SecretStr | None = Field(
        default=None,
        description="What webhooks are signed with ('whsec_...'); fetched if it is not given.",
    )
    credentials: ReplicateCredentials | None = Field(
        default=None, description="Where to fetch the secret; the default ones if not given."
    )
    tolerance: float = Field(
        default=TOLERANCE,
        gt=0,
        le=TOLERANCE,
        description="Seconds that Replicate's clock and this one may be apart, at most 300.",
    )

    @field_validator("public_url")
    @classmethod
    def _usable(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or set(url) & set(" ?#@"):
            raise ValueError(
                f"{url!r} is no URL that webhooks can be sent to. Write it like "
                f"https://hooks.example.com or https://example.com/replicate."
            )
        return url.rstrip("/")

    @field_validator("events")
    @classmethod
    def _ends(cls, events: list[Event]) -> list[Event]:
        if "completed" not in events:
            raise ValueError("Without 'completed' nobody is told that a job has ended. Add it.")
        return events

    def url(self, flow_run_id: UUID, key: str) -> str:
        """The URL to give to Replicate for one job.

        Args:
            flow_run_id: Of the flow run that waits.
            key: As `new_mail_key` makes it.
        """
        return webhook_url(self.public_url, Address(flow_run_id, key))

    def secret(self) -> str:
        """What webhooks are signed with: as given, else asked of the API at each call.

        Raises:
            ConfigurationError: It is not given, and there are no credentials to fetch it with.
            APIError: The API does not give it.
        """
        return engine().run(self._secret)

    async def asecret(self) -> str:
        """As `secret`."""
        return await engine().arun(self._secret)

    def receiver(self) -> Receiver:
        """The ASGI app that receives the webhooks: serve it by itself, or mount it in another."""
        # Imported here, since only a receiver needs a web framework.
        from prefect_replicate.webhooks.receiver import Receiver  # noqa: PLC0415

        return Receiver(self.asecret, tolerance=self.tolerance)

    def wait_for(self, job: J, *, deadline: float | None = None) -> J:
        """Wait for Replicate to say that a job has ended, and for it to have succeeded.

        It is polled all the same, once a minute, since a webhook may be lost.

        Args:
            job: From `create_prediction` or `create_training` with this `webhook`.
            deadline: Seconds from now after which it is canceled.

        Raises:
            ModelError: The model failed.
            JobCanceled: Somebody canceled it.
            DeadlineExceeded: It took too long and was canceled.
        """
        return engine().run(lambda: self._told(job, deadline))

    async def await_for(self, job: J, *, deadline: float | None = None) -> J:
        """As `wait_for`."""
        return await engine().arun(lambda: self._told(job, deadline))

    async def _told(self, job: J, deadline: float | None) -> J:
        waiting = patience(deadline, "webhook")
        return await rejoin(await client_for(self.credentials), job, waiting)

    async def _secret(self) -> str:
        # A form that is left empty is saved as an empty text.
        if self.signing_secret and (given := self.signing_secret.get_secret_value().strip()):
            return given
        client = await client_for(self.credentials)
        fetched = await client.send(calls.webhooks_default_secret_get())
        return fetched.key.get_secret_value()


async def hooks_for(
    webhook: ReplicateWebhook | None, wait: Wait = "poll"
) -> Callable[[], calls.Hook | None]:
    """Makes the webhook to ask for with each new job, into a mailbox of its own in the flow run.

    Args:
        webhook: Where it arrives; what the settings say if None.
        wait: Without a webhook given there is one only if this is "webhook".

    Raises:
        ConfigurationError: It is not known where webhooks arrive, or there is no flow run whose
            mailbox could be used.
    """
    if webhook is None and wait != "webhook":
        return lambda: None
    chosen, run = webhook or await default_webhook(), flow_run_id()
    if run is None:
        raise ConfigurationError(
            "Webhooks arrive in the mailbox of a flow run, and here is none. Call it in a flow, "
            "or wait by polling. Nothing was sent."
        )
    return lambda: calls.Hook(chosen.url(run, new_mail_key()), tuple(chosen.events))


async def default_webhook(
    *, block: str | None = None, public_url: str | None = None
) -> ReplicateWebhook:
    """The block that is named here or in the settings, else the URL and secret in the settings.

    Args:
        block: Name of a saved block; None for the setting `webhook_block`.
        public_url: Counts before that of the block or of the setting `webhook_url`.

    Raises:
        ConfigurationError: There is none of them, or no block of that name.
        ValueError: The URL is none.
    """
    settings = ReplicateSettings()
    if name := block or settings.webhook_block:
        loaded = await _load(name)
        if public_url is None:
            return loaded
        fields = {field: getattr(loaded, field) for field in ReplicateWebhook.model_fields}
        return ReplicateWebhook(**{**fields, "public_url": public_url})
    if url := public_url or settings.webhook_url:
        return ReplicateWebhook(public_url=url, signing_secret=settings.webhook_secret)
    raise ConfigurationError(
        "It is not known where Replicate's webhooks arrive: pass a ReplicateWebhook, or name a "
        "saved one in PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_BLOCK, or set "
        "PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_URL to the URL under which Replicate reaches "
        "`prefect-replicate webhooks serve`. Nothing was sent."
    )


async def _load(name: str) -> ReplicateWebhook:
    try:
        loaded = await ReplicateWebhook.aload(name)
    except ValueError as error:
        raise ConfigurationError(
            f"There is no ReplicateWebhook block named {name!r} on this Prefect server. Save one: "
            f"ReplicateWebhook(public_url=...).save({name!r}). Nothing was sent."
        ) from error
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"The ReplicateWebhook block {name!r} cannot be loaded, as the Prefect server cannot "
            f"be reached: {str(error) or repr(error)}. Nothing was sent."
        ) from error
    return loaded
