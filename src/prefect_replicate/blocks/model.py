"""A model with its input, ready to run."""

from __future__ import annotations

from typing import Annotated, Any

from prefect.blocks.abstract import JobBlock
from pydantic import AfterValidator, Field, field_validator

from prefect_replicate.api.client import Client
from prefect_replicate.api.references import parse_reference
from prefect_replicate.api.resources import Prediction
from prefect_replicate.blocks.credentials import DOCUMENTATION, LOGO, ReplicateCredentials
from prefect_replicate.blocks.runs import ReplicatePredictionRun, Triggers, only_json
from prefect_replicate.blocks.webhook import ReplicateWebhook
from prefect_replicate.jobs.targets import Target, resolve


# Prefect's `trigger` is a coroutine; here a sync name is sync wherever it is called.
class ReplicateModel(  # type: ignore[misc]
    Triggers[Prediction, ReplicatePredictionRun], JobBlock[Prediction]
):
    """A model, or one of its versions, with the input that its runs have in common.

    Attributes:
        reference: "owner/name" (an official model, or the latest version), "owner/name:version" or
            a version id.
        input: What every run gets; what a call gives is merged over it.
        credentials: Who pays; the default credentials if they are not given.
        deadline: Seconds after which a run is canceled.
        webhook: Where Replicate tells that a run has ended; runs are polled if it is not given.

    Example:
        ```python
        from prefect_replicate import ReplicateModel

        model = ReplicateModel.load("BLOCK_NAME")
        print(model.run({"prompt": "Hi"}).output)
        ```
    """

    _block_type_name = "Replicate Model"
    _block_type_slug = "replicate-model"
    _logo_url = LOGO
    _documentation_url = DOCUMENTATION
    _description = "A model on Replicate, with the input that its runs have in common."

    reference: str = Field(
        description="Model to run: 'owner/name', 'owner/name:version' or a version id."
    )
    input: Annotated[dict[str, Any], AfterValidator(only_json)] = Field(
        default_factory=dict,
        description="What every run gets; what a call gives is merged over it.",
    )
    credentials: ReplicateCredentials | None = Field(
        default=None, description="Who pays; the default credentials if not given."
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which a run is canceled.",
    )
    webhook: ReplicateWebhook | None = Field(
        default=None,
        description="Where Replicate tells that a run has ended; it is polled if not given.",
    )

    @field_validator("reference")
    @classmethod
    def _names_a_model(cls, reference: str) -> str:
        parse_reference(reference)
        return reference

    async def _target(self, client: Client) -> Target[Prediction]:
        return await resolve(client, self.reference, None)

    def _as_run(self, job: Prediction) -> ReplicatePredictionRun:
        return ReplicatePredictionRun(job, self.credentials, self.deadline)
