"""Prefect blocks: who pays, what runs, and where outputs go. They hold no clients, so they pickle.

Importing this registers them; Prefect does so itself before it looks one up by its name.
"""

from prefect_replicate.blocks.credentials import ReplicateCredentials
from prefect_replicate.blocks.deployment import ReplicateDeployment
from prefect_replicate.blocks.model import ReplicateModel
from prefect_replicate.blocks.runs import ReplicatePredictionRun, ReplicateTrainingRun
from prefect_replicate.blocks.storage import OutputStorage
from prefect_replicate.blocks.training import ReplicateTraining
from prefect_replicate.blocks.webhook import ReplicateWebhook

__all__ = [
    "OutputStorage",
    "ReplicateCredentials",
    "ReplicateDeployment",
    "ReplicateModel",
    "ReplicatePredictionRun",
    "ReplicateTraining",
    "ReplicateTrainingRun",
    "ReplicateWebhook",
]
