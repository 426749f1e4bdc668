"""Replicate.com in Prefect 3: one call in a flow is one paid job, and all of it runs offline.

Tasks, each with an async twin that has an `a` before its name:

    run         run_model, run_batch, stream_model, evaluate_model
    predict     create_prediction, get_prediction, wait_for_prediction, cancel_prediction,
                list_predictions
    train       train_model, create_training, get_training, wait_for_training, cancel_training,
                list_trainings
    be told     wait_for_webhook, get_webhook_secret
    models      ensure_model, create_model, get_model, update_model, delete_model, list_models,
                get_readme, list_examples, get_version, list_versions, delete_version
    find        search, search_models, list_collections, get_collection
    deploy      release_deployment, get_deployment, update_deployment, delete_deployment,
                list_deployments, list_hardware
    files       upload_file, get_file, delete_file, list_files, save_outputs
    account     get_account
    clean up    sweep_jobs

They give Prediction and Training (each a Job with a Status), Model, Version, Deployment, Hardware,
File, Account, Collection, SearchResults, WebhookSecret, Evaluation, SweptRun, and SavedOutputs of
SavedFiles. Hooks for flows are cancel_remote_jobs, and replicate_hooks for `@flow(**...)`.

Blocks are ReplicateCredentials, OutputStorage, ReplicateModel, ReplicateTraining,
ReplicateDeployment and ReplicateWebhook; what they trigger is a ReplicatePredictionRun or a
ReplicateTrainingRun. LocalReplicate is the embedded server. All errors are a ReplicateError each.

Everything but the errors is imported when it is first asked for: `import prefect` is lazy too, and
what is needed of it for tasks takes longer than all that is here. Prefect itself finds the blocks
through the entry point `prefect.collections`.
"""

import importlib
import typing

from prefect_replicate.api.errors import (
    APIError,
    AuthenticationError,
    BadInputError,
    BadReferenceError,
    BatchError,
    BillingError,
    ConfigurationError,
    CreateUnknownError,
    DeadlineExceeded,
    EvaluationError,
    JobAborted,
    JobCanceled,
    JobError,
    JobFateUnknown,
    JobKeyError,
    LedgerError,
    ModelError,
    NotFoundError,
    OutputsExpired,
    RateLimitError,
    ReplicateError,
    TransportError,
    WebhookError,
)
from prefect_replicate.api.references import Name, Reference, parse_name, parse_reference

if typing.TYPE_CHECKING:
    from prefect_replicate.api.resources import (
        Account,
        Collection,
        Deployment,
        File,
        Hardware,
        Job,
        Model,
        Prediction,
        SearchResults,
        Status,
        Training,
        Version,
        WebhookSecret,
    )
    from prefect_replicate.blocks import (
        OutputStorage,
        ReplicateCredentials,
        ReplicateDeployment,
        ReplicateModel,
        ReplicatePredictionRun,
        ReplicateTraining,
        ReplicateTrainingRun,
        ReplicateWebhook,
    )
    from prefect_replicate.hooks import cancel_remote_jobs, replicate_hooks
    from prefect_replicate.local import LocalReplicate, LocalReplicateError
    from prefect_replicate.local.schema import BrokenModel
    from prefect_replicate.outputs.store import SavedFile, SavedOutputs
    from prefect_replicate.tasks.account import (
        aget_account,
        aget_webhook_secret,
        get_account,
        get_webhook_secret,
    )
    from prefect_replicate.tasks.batch import (
        arun_batch,
        run_batch,
    )
    from prefect_replicate.tasks.deployments import (
        adelete_deployment,
        aget_deployment,
        alist_deployments,
        alist_hardware,
        arelease_deployment,
        aupdate_deployment,
        delete_deployment,
        get_deployment,
        list_deployments,
        list_hardware,
        release_deployment,
        update_deployment,
    )
    from prefect_replicate.tasks.evaluation import (
        Evaluation,
        Example,
        Score,
        Scorer,
        aevaluate_model,
        evaluate_model,
        find_scorer,
        read_examples,
    )
    from prefect_replicate.tasks.files import (
        adelete_file,
        aget_file,
        alist_files,
        aupload_file,
        delete_file,
        get_file,
        list_files,
        upload_file,
    )
    from prefect_replicate.tasks.models import (
        acreate_model,
        adelete_model,
        adelete_version,
        aensure_model,
        aget_model,
        aget_readme,
        aget_version,
        alist_examples,
        alist_models,
        alist_versions,
        asearch_models,
        aupdate_model,
        create_model,
        delete_model,
        delete_version,
        ensure_model,
        get_model,
        get_readme,
        get_version,
        list_examples,
        list_models,
        list_versions,
        search_models,
        update_model,
    )
    from prefect_replicate.tasks.outputs import asave_outputs, save_outputs
    from prefect_replicate.tasks.predictions import (
        acancel_prediction,
        acreate_prediction,
        aget_prediction,
        alist_predictions,
        arun_model,
        await_for_prediction,
        cancel_prediction,
        create_prediction,
        get_prediction,
        list_predictions,
        run_model,
        wait_for_prediction,
    )
    from prefect_replicate.tasks.search import (
        aget_collection,
        alist_collections,
        asearch,
        get_collection,
        list_collections,
        search,
    )
    from prefect_replicate.tasks.streaming import (
        astream_model,
        stream_model,
    )
    from prefect_replicate.tasks.sweeping import SweptRun, asweep_jobs, sweep_jobs
    from prefect_replicate.tasks.trainings import (
        acancel_training,
        acreate_training,
        aget_training,
        alist_trainings,
        atrain_model,
        await_for_training,
        cancel_training,
        create_training,
        get_training,
        list_trainings,
        train_model,
        wait_for_training,
    )
    from prefect_replicate.tasks.twins import retry_transient
    from prefect_replicate.tasks.webhooks import (
        await_for_webhook,
        wait_for_webhook,
    )
else:
    # Hidden from type checkers, which would take it for any name at all.
    def __getattr__(name: str) -> typing.Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        for late in _LATE:
            found = vars(importlib.import_module(f"{__name__}.{late}"))
            if name in found:
                globals()[name] = found[name]
                return found[name]
        raise AttributeError(f"{name!r} is promised by {__name__!r}, but is nowhere")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


# The modules that are imported late, in the order in which names are looked for in them.
_LATE = (
    "api.resources",
    "outputs.store",
    "blocks",
    "tasks.predictions",
    "tasks.trainings",
    "tasks.outputs",
    "tasks.models",
    "tasks.deployments",
    "tasks.evaluation",
    "tasks.files",
    "tasks.account",
    "tasks.search",
    "tasks.batch",
    "tasks.streaming",
    "tasks.webhooks",
    "tasks.sweeping",
    "hooks",
    "tasks.twins",
    "local",
    "local.schema",
)

__all__ = [
    "APIError",
    "Account",
    "AuthenticationError",
    "BadInputError",
    "BadReferenceError",
    "BatchError",
    "BillingError",
    "BrokenModel",
    "Collection",
    "ConfigurationError",
    "CreateUnknownError",
    "DeadlineExceeded",
    "Deployment",
    "Evaluation",
    "EvaluationError",
    "Example",
    "File",
    "Hardware",
    "Job",
    "JobAborted",
    "JobCanceled",
    "JobError",
    "JobFateUnknown",
    "JobKeyError",
    "LedgerError",
    "LocalReplicate",
    "LocalReplicateError",
    "Model",
    "ModelError",
    "Name",
    "NotFoundError",
    "OutputStorage",
    "OutputsExpired",
    "Prediction",
    "RateLimitError",
    "Reference",
    "ReplicateCredentials",
    "ReplicateDeployment",
    "ReplicateError",
    "ReplicateModel",
    "ReplicatePredictionRun",
    "ReplicateTraining",
    "ReplicateTrainingRun",
    "ReplicateWebhook",
    "SavedFile",
    "SavedOutputs",
    "Score",
    "Scorer",
    "SearchResults",
    "Status",
    "SweptRun",
    "Training",
    "TransportError",
    "Version",
    "WebhookError",
    "WebhookSecret",
    "acancel_prediction",
    "acancel_training",
    "acreate_model",
    "acreate_prediction",
    "acreate_training",
    "adelete_deployment",
    "adelete_file",
    "adelete_model",
    "adelete_version",
    "aensure_model",
    "aevaluate_model",
    "aget_account",
    "aget_collection",
    "aget_deployment",
    "aget_file",
    "aget_model",
    "aget_prediction",
    "aget_readme",
    "aget_training",
    "aget_version",
    "aget_webhook_secret",
    "alist_collections",
    "alist_deployments",
    "alist_examples",
    "alist_files",
    "alist_hardware",
    "alist_models",
    "alist_predictions",
    "alist_trainings",
    "alist_versions",
    "arelease_deployment",
    "arun_batch",
    "arun_model",
    "asave_outputs",
    "asearch",
    "asearch_models",
    "astream_model",
    "asweep_jobs",
    "atrain_model",
    "aupdate_deployment",
    "aupdate_model",
    "aupload_file",
    "await_for_prediction",
    "await_for_training",
    "await_for_webhook",
    "cancel_prediction",
    "cancel_remote_jobs",
    "cancel_training",
    "create_model",
    "create_prediction",
    "create_training",
    "delete_deployment",
    "delete_file",
    "delete_model",
    "delete_version",
    "ensure_model",
    "evaluate_model",
    "find_scorer",
    "get_account",
    "get_collection",
    "get_deployment",
    "get_file",
    "get_model",
    "get_prediction",
    "get_readme",
    "get_training",
    "get_version",
    "get_webhook_secret",
    "list_collections",
    "list_deployments",
    "list_examples",
    "list_files",
    "list_hardware",
    "list_models",
    "list_predictions",
    "list_trainings",
    "list_versions",
    "parse_name",
    "parse_reference",
    "read_examples",
    "release_deployment",
    "replicate_hooks",
    "retry_transient",
    "run_batch",
    "run_model",
    "save_outputs",
    "search",
    "search_models",
    "stream_model",
    "sweep_jobs",
    "train_model",
    "update_deployment",
    "update_model",
    "upload_file",
    "wait_for_prediction",
    "wait_for_training",
    "wait_for_webhook",
]
