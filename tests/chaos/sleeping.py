"""Flows that are suspended while their job runs, served until the process is killed."""

import os

from prefect import flow, serve, suspend_flow_run

from prefect_replicate import (
    ModelError,
    create_prediction,
    replicate_hooks,
    run_model,
    wait_for_prediction,
)

MODEL = os.environ["MODEL"]


@flow(persist_result=False, **replicate_hooks)
def naps(text: str, seconds: int = 3) -> str:
    """Its job runs while the flow does not."""
    started = create_prediction(MODEL, {"do": "sleep", "number": seconds, "text": text})
    suspend_flow_run(timeout=600)
    return str(wait_for_prediction(started).output)


@flow(persist_result=False)
def fails(text: str) -> str:
    """Its job has failed for good before, and is not to be paid for again."""
    try:
        run_model(MODEL, {"do": "fail", "text": text})
    except ModelError:
        suspend_flow_run(timeout=600)
    return text


if __name__ == "__main__":
    serve(naps.to_deployment("naps"), fails.to_deployment("fails"))  # type: ignore[arg-type]  # not in an event loop
