"""Keep what a job left behind."""

from __future__ import annotations

from pathlib import Path

from prefect_replicate.api.errors import BadInputError, OutputsExpired
from prefect_replicate.api.resources import Job
from prefect_replicate.blocks.storage import OutputStorage
from prefect_replicate.jobs.engine import engine
from prefect_replicate.outputs.store import SavedOutputs
from prefect_replicate.tasks.predictions import shown_id
from prefect_replicate.tasks.twins import twins


async def _save_outputs(
    prediction: Job,
    storage: OutputStorage | str | Path,
) -> SavedOutputs:
    """Keep every output of a prediction (or training) in a folder named after its id.

    Files are streamed and hashed on their way. Text becomes `output.txt`, everything else
    `output.json`; `manifest.json` is written last and names every file with its size and SHA-256.

    Args:
        prediction: As `run_model` or `train_model` returned it.
        storage: A block, a local path, or any fsspec URL. Files are fetched without any token.

    Raises:
        OutputsExpired: Replicate has removed the outputs already.
        BadInputError: The job has not ended, or the storage cannot be written. Nothing
            half-written remains.
        TransportError: A file could not be fetched whole; the call can be repeated.
    """
    if prediction.data_removed:
        raise OutputsExpired(
            f"The outputs of {prediction.id} are gone: Replicate removes them an hour after the "
            f"end. Nothing was written.",
            prediction,
        )
    if not prediction.done:
        raise BadInputError(
            f"{prediction.id} is '{prediction.status}', so its outputs are not all there. Wait for "
            f"it first. Nothing was written."
        )
    block = storage if isinstance(storage, OutputStorage) else OutputStorage(url=str(storage))
    return await block.store.save(engine().downloads(), prediction)


save_outputs, asave_outputs = twins(
    _save_outputs, lambda p: f"save outputs of {shown_id(p, 'prediction')}"
)
