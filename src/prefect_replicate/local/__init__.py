"""Local Replicate: speaks Replicate's HTTP API on this machine and runs real Cog models.

Offers the operations that a client needs to run, train, deploy and keep files. It is not a sandbox:
a model is a program that runs with your rights, so serve only what you would run yourself.
"""

from prefect_replicate.local.behaviour import Behaviour
from prefect_replicate.local.faults import Fault
from prefect_replicate.local.received import Received
from prefect_replicate.local.server import LocalReplicate, LocalReplicateError

__all__ = ["Behaviour", "Fault", "LocalReplicate", "LocalReplicateError", "Received"]
