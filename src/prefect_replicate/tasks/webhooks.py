"""Wait to be told, instead of asking."""

from __future__ import annotations

from prefect_replicate.api.resources import Prediction, Training
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.jobs.watch import patience, rejoin
from prefect_replicate.tasks.predictions import as_job, shown_id
from prefect_replicate.tasks.twins import twins


async def _wait_for_webhook(
    job: Prediction | Training | str,
    *,
    credentials: ReplicateCredentials | None = None,
    deadline: float | None = None,
) -> Prediction | Training:
    """Wait for Replicate to say that a job has ended, and for it to have succeeded.

    It is polled all the same, once a minute, since a webhook may be lost.

    Args:
        job: From `create_prediction` or `create_training` with a `webhook`; or the id of such a
            prediction.
        credentials: Who may read it; the default credentials if None.
        deadline: Seconds from now after which it is canceled.

    Returns:
        The prediction or training, read from Replicate after the webhook: as it is, not as a
        webhook says it is.

    Raises:
        ModelError: The model failed.
        JobCanceled: Somebody canceled it.
        DeadlineExceeded: It took too long and was canceled.

    Example:
        ```python
        started = create_training(base, "me/mine", data, webhook=ReplicateWebhook.load("mine"))
        training = wait_for_webhook(started)
        ```
    """
    client, waiting = await client_for(credentials), patience(deadline, "webhook")
    known = as_job(Prediction, job) if isinstance(job, str) else job
    return await rejoin(client, known, waiting)


wait_for_webhook, await_for_webhook = twins(
    _wait_for_webhook, lambda p: f"wait for webhook of {shown_id(p, 'job')}"
)
