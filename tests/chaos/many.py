"""A flow of one batch, in a process of its own that may be killed. The environment says of what."""

import json
import os
import sys
from typing import Any

from prefect import flow

from prefect_replicate import ReplicateCredentials, run_batch


@flow(persist_result=False)
def many(model: str, texts: list[str], base_url: str, token: str) -> list[Any]:
    """The outputs of a batch."""
    credentials = ReplicateCredentials(api_token=token, base_url=base_url)
    batch = run_batch(model, [{"text": text} for text in texts], credentials=credentials)
    return [one.output for one in batch]


if __name__ == "__main__":
    many(**json.loads(os.environ["ASKED"]))
    sys.stdout.write("DONE\n")
