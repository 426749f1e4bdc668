"""How the service behaves where that is not certain, or where people may want it otherwise.

Replicate documents much and leaves some things open. For each open one there is a switch with both
behaviours, so that a client can be tried against either. The first value is the default: what the
documentation suggests, what was recorded, or what is harder on clients.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# At most 30 years: every time less or plus that is one that can be written down.
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Behaviour(BaseModel):
    """Every switch of a Local Replicate.

    Attributes:
        create_status: Status of a create that does not wait. The API's description says that 202 is
            for outputs that are not complete; every recorded answer was 201.
        held_status: What a client that waited in vain is told; the official clients take
            "processing" for a finished output.
        long_wait: What becomes of `Prefer: wait=61` to 99, which the API's description both
            excludes and admits.
        bad_cancel_after: What becomes of a `Cancel-After` that is malformed or out of bounds.
        cancel_ended: What a cancel of something that has ended is answered.
        min_above_max: Whether a deployment may have more instances at least than at most.
        refusal_status: Status for what has to wait until something else has changed, such as the
            deletion of a deployment that was used just now.
        bare_forbidden: Whether the body of a 403 has a detail only.
        insecure_webhook: Whether a webhook may be plain http. The documentation says no, but then
            nothing could be tried on one machine.
        webhook_completed: What becomes of this old field, which the official Python client may
            send.
        webhook_echo: Whether predictions show the webhook that they were created with.
        stream_replay: Whether a stream goes on after the event that Last-Event-ID names, or begins
            again.
        stream_logs: Whether streams have events with log lines.
        expired_status: Status of a file that is no longer there.
        get_budget: How many reads of a prediction a minute allows: 3,000 is documented, 60,000 was
            recorded.
        throttling: Whether budgets are enforced: 600 creates of predictions a minute and 3,000
            other requests. Counted and told in headers in any case.
        retry_after_header: Whether a 429 says when to come again in a header too.
        credit: "low" allows 6 creates a minute, one at a time; with "none" creates are 402.
        retention: Seconds after its end at which a prediction loses input, output, logs and files;
            None for never.
        run_limit: Seconds that a model may run for one prediction.
        deadline_lifts_limit: Whether a Cancel-After that is longer lifts that limit.
        list_lag: Seconds until something new is in the lists of predictions and trainings.
        clock_offset: Seconds by which the server's clock is ahead.
        on_restart: What becomes of a run that was alive when an earlier server was killed.
        worker_rest: Seconds after which an unused worker is ended, unless a deployment keeps it;
            of a server that runs, this cannot be changed.
        deployment_rest: Seconds that a deployment must have been unused before it can be deleted;
            900 at Replicate.
        webhook_retries: When the last webhook of a run is tried again if it was not taken, in
            seconds after the first try.
        stream_idle: Seconds without an event until a stream is closed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    create_status: Literal[201, 202] = 201
    held_status: Literal["starting", "processing"] = "starting"
    long_wait: Literal["refuse", "cap"] = "refuse"
    bad_cancel_after: Literal["refuse", "ignore"] = "refuse"
    cancel_ended: Literal["unchanged", "refuse"] = "unchanged"
    min_above_max: Literal["refuse", "accept"] = "refuse"
    refusal_status: Literal[422, 409, 403] = 422
    bare_forbidden: bool = False
    insecure_webhook: Literal["accept", "refuse"] = "accept"
    webhook_completed: Literal["refuse", "ignore"] = "refuse"
    webhook_echo: bool = True
    stream_replay: bool = True
    stream_logs: bool = False
    expired_status: Literal[404, 403, 410] = 404
    get_budget: Literal[3000, 60000] = 3000
    throttling: bool = False
    retry_after_header: bool = False
    credit: Literal["plenty", "low", "none"] = "plenty"
    retention: Seconds | None = 3600.0
    run_limit: Seconds = 1800.0
    deadline_lifts_limit: bool = False
    list_lag: Seconds = 0.0
    clock_offset: float = Field(default=0.0, ge=-1e9, le=1e9)
    on_restart: Literal["fail", "rerun"] = "fail"
    worker_rest: Seconds = 60.0
    deployment_rest: Seconds = 0.0
    webhook_retries: tuple[Seconds, ...] = (1.0, 3.0, 7.0, 15.0, 31.0, 61.0)
    stream_idle: Seconds = 30.0
