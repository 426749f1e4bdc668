"""A fine-tuning, ready to run."""

from __future__ import annotations

from typing import Annotated, Any

from prefect.blocks.abstract import JobBlock
from pydantic import AfterValidator, Field, field_validator

from prefect_replicate.api.client import Client
from prefect_replicate.api.references import parse_name, parse_version
from prefect_replicate.api.resources import Training
from prefect_replicate.blocks.credentials import DOCUMENTATION, LOGO, ReplicateCredentials
from prefect_replicate.blocks.runs import ReplicateTrainingRun, Triggers, only_json
from prefect_replicate.blocks.webhook import ReplicateWebhook
from prefect_replicate.jobs.targets import Target, resolve_training


# Prefect's `trigger` is a coroutine; here a sync name is sync wherever it is called.
class ReplicateTraining(  # type: ignore[misc]
    Triggers[Training, ReplicateTrainingRun], JobBlock[Training]
):
    """A version to fine-tune, and the model that gets the version that comes of it.

    Attributes:
        version: "owner/name:version", the version to start from.
        destination: "owner/name" of an existing model that gets the new version.
        input: What every training gets; what a call gives is merged over it.
        credentials: Who pays; the default credentials if they are not given.
        deadline: Seconds after which a training is canceled. Replicate knows no deadline of
            trainings: whoever waits must live to cancel it.
        webhook: Where Replicate tells that a training has ended; it is polled if it is not given.

    Example:
        ```python
        from prefect_replicate import ReplicateTraining

        training = ReplicateTraining.load("BLOCK_NAME")
        print(training.run({"training_data": Path("data.zip")}).trained_version)
        ```
    """

    _block_type_name = "Replicate Training"
    _block_type_slug = "replicate-training"
    _logo_url = LOGO
    _documentation_url = DOCUMENTATION
    _description = "A version to fine-tune on Replicate, and the model that gets the new version."

    version: str = Field(description="Version to start from: 'owner/name:version'.")
    destination: str = Field(description="Existing model that gets the new version: 'owner/name'.")
    input: Annotated[dict[str, Any], AfterValidator(only_json)] = Field(
        default_factory=dict,
        description="What every training gets; what a call gives is merged over it.",
    )
    credentials: ReplicateCredentials | None = Field(
        default=None, description="Who pays; the default credentials if not given."
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which a training is canceled, if somebody waits for it.",
    )
    webhook: ReplicateWebhook | None = Field(
        default=None,
        description="Where Replicate tells that a training has ended; it is polled if not given.",
    )

    @field_validator("version")
    @classmethod
    def _names_a_version(cls, version: str) -> str:
        parse_version(version, "A training starts from one version of a model")
        return version

    @field_validator("destination")
    @classmethod
    def _names_a_model(cls, destination: str) -> str:
        parse_name(destination, "destination model")
        return destination

    async def _target(self, client: Client) -> Target[Training]:
        return resolve_training(client, self.version, self.destination)

    def _as_run(self, job: Training) -> ReplicateTrainingRun:
        return ReplicateTrainingRun(job, self.credentials, self.deadline)
