"""A deployment: run it, release versions to it, scale it, delete it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Generic, TypeVar, overload

from prefect.blocks.abstract import JobBlock
from pydantic import AfterValidator, ConfigDict, Field, field_validator

from prefect_replicate.api import calls
from prefect_replicate.api.client import Client
from prefect_replicate.api.references import parse_name
from prefect_replicate.api.resources import Deployment, Prediction
from prefect_replicate.blocks.credentials import (
    DOCUMENTATION,
    LOGO,
    ReplicateCredentials,
    client_for,
)
from prefect_replicate.blocks.runs import ReplicatePredictionRun, Triggers, only_json
from prefect_replicate.blocks.webhook import ReplicateWebhook
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.releases import full_name, release, update
from prefect_replicate.jobs.targets import Target, resolve

T = TypeVar("T")


class _OfInstances(Generic[T]):
    """A method of instances, where Prefect's `Block` has a class method of the same name.

    `ReplicateDeployment.delete("name")` deletes a saved block, as it does with every block;
    `block.delete()` deletes the deployment that the block describes.
    """

    def __init__(self, method: Callable[[Any], T]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner, self._name = owner, name

    @overload
    def __get__(self, block: None, owner: type) -> Callable[..., Any]: ...

    @overload
    def __get__(self, block: object, owner: type) -> Callable[[], T]: ...

    def __get__(self, block: object | None, owner: type) -> Callable[..., Any]:
        if block is None:
            of_class: Callable[..., Any] = getattr(super(self._owner, owner), self._name)
            return of_class
        bound: Callable[[], T] = self._method.__get__(block, owner)
        return bound


# Prefect's `trigger` is a coroutine; here a sync name is sync wherever it is called.
class ReplicateDeployment(  # type: ignore[misc]
    Triggers[Prediction, ReplicatePredictionRun], JobBlock[Prediction]
):
    """A version behind a stable name, on hardware of its own.

    Attributes:
        name: "owner/name", or "name" in the token's own account.
        hardware: SKU that releases run on, one of those that `list_hardware` lists.
        min_instances: Instances that are always on, and always charged: 0 to 5.
        max_instances: Instances at most: 0 to 20.
        input: What every run gets; what a call gives is merged over it.
        credentials: Who pays; the default credentials if they are not given.
        deadline: Seconds after which a run is canceled.
        webhook: Where Replicate tells that a run has ended; runs are polled if it is not given.

    Example:
        ```python
        from prefect_replicate import ReplicateDeployment

        deployment = ReplicateDeployment.load("BLOCK_NAME")
        deployment.release("owner/name:version")
        print(deployment.run({"prompt": "Hi"}).output)
        deployment.scale(min_instances=0)
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(ignored_types=(_OfInstances,))

    _block_type_name = "Replicate Deployment"
    _block_type_slug = "replicate-deployment"
    _logo_url = LOGO
    _documentation_url = DOCUMENTATION
    _description = "A version on Replicate behind a stable name, on hardware of its own."

    name: str = Field(description="Deployment: 'owner/name', or 'name' in the token's own account.")
    hardware: str | None = Field(
        default=None, description="SKU that releases run on; a new deployment needs one."
    )
    min_instances: int | None = Field(
        default=None,
        ge=0,
        description="Instances that are always on, and always charged: 0 to 5.",
    )
    max_instances: int | None = Field(default=None, ge=0, description="Instances at most: 0 to 20.")
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

    @field_validator("name")
    @classmethod
    def _names_a_deployment(cls, name: str) -> str:
        parse_name(name if "/" in name else f"owner/{name}", "deployment")
        return name

    def release(self, version: str, hardware: str | None = None) -> Deployment:
        """Put a version behind the deployment; it is created if there is none.

        Called again with the same arguments it changes nothing. Instances are as the block says;
        where it says nothing a new deployment has 0 to 1, and another keeps what it has.

        Args:
            version: "owner/name:version".
            hardware: SKU; the block's if None, and if that says nothing what it runs on now.

        Raises:
            BadReferenceError: It is not a version.
            BadInputError: Replicate refuses it; or there is no such deployment, and it cannot be
                created for another owner or without hardware.
        """
        return engine().run(lambda: self._release(version, hardware))

    async def arelease(self, version: str, hardware: str | None = None) -> Deployment:
        """As `release`."""
        return await engine().arun(lambda: self._release(version, hardware))

    def scale(
        self, min_instances: int | None = None, max_instances: int | None = None
    ) -> Deployment:
        """Change how many instances there are. What is None stays as it is.

        Without any argument they become what the block says.

        Raises:
            NotFoundError: There is no such deployment.
            BadInputError: Replicate refuses it.
        """
        return engine().run(lambda: self._scale(min_instances, max_instances))

    async def ascale(
        self, min_instances: int | None = None, max_instances: int | None = None
    ) -> Deployment:
        """As `scale`."""
        return await engine().arun(lambda: self._scale(min_instances, max_instances))

    @_OfInstances
    def delete(self) -> None:  # type: ignore[override] # Prefect's is kept for the class.
        """Delete the deployment at Replicate, once it has been offline and unused for 15 minutes.

        The saved block stays; `ReplicateDeployment.delete("BLOCK_NAME")` deletes that.

        Raises:
            NotFoundError: There is no such deployment.
            BadInputError: Replicate does not delete it yet.
        """
        engine().run(self._delete)

    @_OfInstances
    async def adelete(self) -> None:  # type: ignore[override] # As above.
        """As `delete`."""
        await engine().arun(self._delete)

    async def _release(self, version: str, hardware: str | None) -> Deployment:
        return await release(
            await client_for(self.credentials),
            self.name,
            version,
            hardware or self.hardware,
            min_instances=self.min_instances,
            max_instances=self.max_instances,
        )

    async def _scale(self, min_instances: int | None, max_instances: int | None) -> Deployment:
        if min_instances is None and max_instances is None:
            min_instances, max_instances = self.min_instances, self.max_instances
        client = await client_for(self.credentials)
        wanted = {"min_instances": min_instances, "max_instances": max_instances}
        return await update(client, await full_name(client, self.name), wanted)

    async def _delete(self) -> None:
        client = await client_for(self.credentials)
        await client.send(calls.deployments_delete(await full_name(client, self.name)))

    async def _target(self, client: Client) -> Target[Prediction]:
        return await resolve(client, None, str(await full_name(client, self.name)))

    def _as_run(self, job: Prediction) -> ReplicatePredictionRun:
        return ReplicatePredictionRun(job, self.credentials, self.deadline)
