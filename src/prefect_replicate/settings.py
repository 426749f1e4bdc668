"""Settings: PREFECT_INTEGRATIONS_REPLICATE_* in the environment, `.env`, prefect.toml or pyproject.

REPLICATE_API_TOKEN and REPLICATE_BASE_URL are read as well, since every other client reads them.
"""

from __future__ import annotations

from typing import Literal

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import AliasChoices, AliasPath, Field, SecretStr, ValidationError

from prefect_replicate.api.client import REPLICATE
from prefect_replicate.api.errors import ConfigurationError


def _also(name: str) -> AliasChoices:
    own = f"prefect_integrations_replicate_{name}"
    return AliasChoices(AliasPath(name), own, f"replicate_{name}")


class ReplicateSettings(PrefectBaseSettings):
    """What applies where a call says nothing. Read anew at each use, so tests can change it."""

    model_config = build_settings_config(("integrations", "replicate"))

    credentials_block: str | None = Field(
        default=None,
        description="Name of the ReplicateCredentials block that calls without credentials use.",
    )
    api_token: SecretStr | None = Field(
        default=None,
        validation_alias=_also("api_token"),
        description="API token, where no block is named.",
    )
    base_url: str = Field(
        default=REPLICATE,
        validation_alias=_also("base_url"),
        description="URL of the API, with or without /v1.",
    )
    transport: Literal["httpx", "aiohttp"] = Field(
        default="httpx",
        description="What carries requests; 'aiohttp' needs the extra of that name.",
    )
    webhook_block: str | None = Field(
        default=None,
        description="Name of the ReplicateWebhook block that `wait='webhook'` uses.",
    )
    webhook_url: str | None = Field(
        default=None,
        description="URL under which Replicate reaches the receiver, where no block is named.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="What webhooks are signed with; the receiver fetches it if it is not set.",
    )
    deadline: float = Field(
        default=24 * 3600.0,
        gt=0,
        description="Seconds after which a job that nobody gave a deadline is canceled.",
    )
    poll_first: float = Field(
        default=0.25, gt=0, description="Seconds between polls of a job that has just begun."
    )
    poll_last: float = Field(
        default=5.0, gt=0, description="Seconds between polls of a job that has run for long."
    )
    webhook_poll: float = Field(
        default=60.0,
        gt=0,
        description="Seconds between polls of a job that a webhook tells of, should it be lost.",
    )
    ledger_send: float = Field(
        default=10.0,
        gt=0,
        description="Seconds from a claim to its create; later it is not sent any more.",
    )
    ledger_answer: float = Field(
        default=30.0, gt=0, description="Seconds for the answer to a create, in all."
    )
    ledger_accept: float = Field(
        default=15.0,
        ge=0,
        description="Seconds by which Replicate may take a create later than that.",
    )
    ledger_list: float = Field(
        default=30.0, ge=0, description="Seconds until a new job is certainly in lists."
    )
    ledger_late: float = Field(
        default=600.0,
        ge=0,
        description="Seconds after all that for which a second job of a call is still looked for.",
    )
    ledger_look: float = Field(
        default=3.0, gt=0, description="Seconds between looks for a job whose answer was lost."
    )
    ledger_orphans: Literal["match", "token"] = Field(
        default="match",
        description=(
            "Whether a job whose answer was lost is known by what it runs and by its deadline "
            "('match'), or by a webhook only ('token')."
        ),
    )
    sweep_patience: float = Field(
        default=3600.0,
        ge=0,
        description="Seconds for which the sweep leaves the jobs of a flow run that failed or "
        "crashed, since it may be run again.",
    )
    look_every: float = Field(
        default=5.0,
        gt=0,
        description="Seconds between looks whether the flow run still wants the job.",
    )


def read_settings() -> ReplicateSettings:
    """What the settings say now.

    Raises:
        ConfigurationError: One of them has no sense.
    """
    try:
        return ReplicateSettings()
    except ValidationError as error:
        raise ConfigurationError(
            f"The settings of prefect-replicate cannot be read: {error}. Nothing was sent."
        ) from None
