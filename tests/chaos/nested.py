"""A flow in a flow in a process of its own; with HANG it has its job and waits to be killed."""

import os
import sys
import time

from prefect import flow

from prefect_replicate import ReplicateCredentials, run_model


@flow(persist_result=False)
def inner() -> str:
    """Ask for the job."""
    paid = ReplicateCredentials(
        api_token=os.environ["REPLICATE_API_TOKEN"], base_url=os.environ["REPLICATE_BASE_URL"]
    )
    job = run_model(os.environ["MODEL"], {"text": "same"}, credentials=paid).id
    sys.stdout.write(f"JOB {job}\n")
    sys.stdout.flush()
    while os.environ["HANG"]:
        time.sleep(1)
    return job


@flow(persist_result=False)
def outer() -> str:
    """Call the flow that asks."""
    return inner()


if __name__ == "__main__":
    outer()
