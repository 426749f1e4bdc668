"""Fine-tune a model, release it only if it got better, and generate with it.

Without `--live` this runs against Local Replicate, an embedded server with a real model: no token,
no network, no money. With it, the same flow runs on replicate.com:

    python flows/fine_tune.py --live --base-version owner/name:id --destination me/mine \
        --training-data data.txt --training-input steps=300 --deployment mine --hardware gpu-t4 \
        --eval-data held-out.jsonl --scorer similarity
"""

import argparse
import base64
import io
import json
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# A first start of Prefect's own server takes 10 s on two quiet cores; by default it may take 20.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")

import fsspec
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.logging.configuration import setup_logging
from pydantic import BaseModel

from prefect_replicate import (
    BadInputError,
    BadReferenceError,
    BrokenModel,
    Deployment,
    Evaluation,
    Example,
    LocalReplicate,
    LocalReplicateError,
    ModelError,
    OutputStorage,
    Prediction,
    ReplicateCredentials,
    ReplicateError,
    SavedFile,
    SavedOutputs,
    Training,
    ensure_model,
    evaluate_model,
    find_scorer,
    list_hardware,
    parse_name,
    parse_reference,
    read_examples,
    release_deployment,
    retry_transient,
    run_model,
    save_outputs,
    train_model,
    upload_file,
)

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "models"

# What the example models are trained from, scored by, and asked to make.
MODELS: dict[str, dict[str, Any]] = {
    "text": {
        "training_data": str(EXAMPLES / "text" / "data" / "train.txt"),
        "eval_data": str(EXAMPLES / "text" / "data" / "eval.jsonl"),
        "scorer": "lowest:bits_per_character",
        "generate_input": {"prompt": "The flow run ", "max_tokens": 300, "seed": 1},
    },
    "image": {
        "training_data": str(EXAMPLES / "image" / "data" / "train.zip"),
        "eval_data": str(EXAMPLES / "image" / "data" / "eval.jsonl"),
        "scorer": "lowest:denoising_error",
        "generate_input": {"count": 16, "sheet": True, "seed": 1},
    },
}

# Every step tries passing troubles again, and raises everything else at once.
PATIENCE: dict[str, Any] = {"retries": 3, "retry_delay_seconds": [1, 5, 15]}


class Made(BaseModel):
    """A prediction and what is kept of it."""

    prediction: Prediction
    saved: SavedOutputs


class FineTuned(BaseModel):
    """What came of it: both scores, what was released, what it made, and where that is kept."""

    before: Evaluation
    after: Evaluation
    improved: bool
    released: str
    deployment: Deployment
    made_before: Made
    made_after: Made
    flow_run: str


@flow(name="fine-tune")
def fine_tune(
    *,
    base_version: str,
    destination: str,
    training_data: str,
    eval_data: str,
    scorer: str,
    deployment: str,
    hardware: str = "cpu",
    training_input: dict[str, Any] | None = None,
    generate_input: dict[str, Any] | None = None,
    storage: str = "./outputs",
    credentials: ReplicateCredentials | None = None,
) -> FineTuned:
    """Fine-tune a version, score it against its base, release the better one, generate with it.

    Args:
        base_version: "owner/name:version" to start from.
        destination: "owner/name" that gets the new version; created privately if it is missing.
        training_data: Path or URL of the data; the training gets it as `training_data`.
        eval_data: Path or URL of held-out examples, one JSON object a line.
        scorer: "exact_match", "contains", "similarity", "lowest:METRIC" or "highest:METRIC".
        deployment: "owner/name", or "name" in the token's own account.
        hardware: SKU for the deployment, and for the destination if it is new.
        training_input: More input for the training.
        generate_input: What the base and then the deployment are asked to make, for a look at
            both; the first held-out example's input if None.
        storage: Path or fsspec URL for the outputs.
        credentials: Who pays; the default credentials if None.
    """
    # What costs nothing comes first, so that mistakes show before anything is paid for.
    parse_name(destination, "destination model")
    parse_name(deployment if "/" in deployment else f"own/{deployment}", "deployment")
    if not parse_reference(base_version).version:
        raise BadReferenceError(f"{base_version!r} names no version: write 'owner/name:version'.")
    find_scorer(scorer)
    examples = check_places(storage, eval_data)
    check_hardware(hardware, credentials)
    data = data_url(training_data, credentials)
    ensure_model.with_options(**PATIENCE)(destination, hardware=hardware, credentials=credentials)

    evaluate = evaluate_model.with_options(**PATIENCE)
    before = evaluate(base_version, examples, scorer, credentials=credentials)
    training = train_model.with_options(**PATIENCE)(
        base_version,
        destination,
        {"training_data": data, **(training_input or {})},
        credentials=credentials,
    )
    tuned = new_version(training)
    after = evaluate(tuned, examples, scorer, credentials=credentials)

    improved = after.beats(before)
    released = tuned if improved else base_version
    if not improved:
        get_run_logger().warning("Refused to release %s: it is no better than its base", tuned)
    release = release_deployment.with_options(**PATIENCE)(
        deployment, released, hardware, credentials=credentials
    )
    run, save = run_model.with_options(**PATIENCE), save_outputs.with_options(**PATIENCE)
    asked = generate_input or examples[0].input
    was = run(base_version, asked, credentials=credentials)
    now = run(deployment=release.reference, input=asked, credentials=credentials)
    done = FineTuned(
        before=before,
        after=after,
        improved=improved,
        released=released,
        deployment=release,
        made_before=Made(prediction=was, saved=save(was, storage)),
        made_after=Made(prediction=now, saved=save(now, storage)),
        flow_run=f"{runtime.flow_run.name} ({runtime.flow_run.id})",
    )
    create_markdown_artifact(page(done), key="fine-tune", description=f"Into {destination}")
    return done


@task(**PATIENCE, retry_condition_fn=retry_transient)
def check_places(storage: str, eval_data: str) -> list[Example]:
    """Make sure that outputs can be written, and read the examples."""
    OutputStorage(url=storage).verify()
    return read_examples(eval_data)


def check_hardware(hardware: str, credentials: ReplicateCredentials | None) -> None:
    """Make sure that there is such hardware."""
    skus = [one.sku for one in list_hardware.with_options(**PATIENCE)(credentials=credentials)]
    if hardware not in skus:
        raise BadInputError(f"There is no hardware {hardware!r}. There is: {', '.join(skus)}.")


def data_url(training_data: str, credentials: ReplicateCredentials | None) -> str:
    """Where a training can read the data: a web URL as it is, anything else uploaded."""
    if training_data.startswith(("http://", "https://")):
        return training_data
    upload = upload_file.with_options(**PATIENCE)
    return upload(training_data, credentials=credentials).urls.get


def new_version(training: Training) -> str:
    """The version that a training made, "owner/name:version"."""
    if training.trained_version is None:
        raise ModelError(f"Training {training.id} succeeded but added no version.", training)
    return training.trained_version


def report(done: FineTuned) -> str:
    """The result as a short table."""
    better = "higher" if done.before.higher_is_better else "lower"
    verdict = "better, released" if done.improved else "no better, refused; the base is released"
    name = done.before.scorer.rpartition(":")[2]
    release = done.deployment.current_release
    rows = [
        ("", f"{'before':>10}{'after':>10}"),
        (name, f"{done.before.score:>10.3f}{done.after.score:>10.3f}   {better} is better"),
        ("examples", f"{len(done.before.scores):>10}{len(done.after.scores):>10}   held out"),
        ("fine-tuned", verdict),
        (
            "deployment",
            f"{done.deployment.reference}, release {release.number}: {done.released[:-56]}",
        ),
        *made("before", done.made_before),
        *made("after", done.made_after),
        ("Prefect run", done.flow_run),
        ("", "`prefect server start` shows it at http://127.0.0.1:4200"),
    ]
    return "\n".join(f"  {label:<20}{value}".rstrip() for label, value in rows)


def made(when: str, made: Made) -> list[tuple[str, str]]:
    """Rows for what a model made, before or after."""
    text = " ".join(made.prediction.text.split())
    is_text = [file.name for file in made.saved.files] == ["output.txt"]
    said = [(f"said {when}", f"{text[:56]} ...")] if is_text else []
    files = [(f"made {when}", f"{file.uri} ({file.size} bytes)") for file in made.saved.files]
    return [*said, *files, (f"manifest {when}", made.saved.manifest)]


def page(done: FineTuned) -> str:
    """The result as a page for Prefect's UI: the scores, and what was made before and after."""
    name = done.before.scorer.rpartition(":")[2]
    better = "higher" if done.before.higher_is_better else "lower"
    release = done.deployment.current_release
    verdict = "The fine-tuned version" if done.improved else "The fine-tuned is no better: the base"
    return f"""# {"Better" if done.improved else "No better"}: {done.after.ref[:-56]}

| | before | after |
| --- | --- | --- |
| {name}, {better} is better | {done.before.score:.3f} | {done.after.score:.3f} |
| held-out examples | {len(done.before.scores)} | {len(done.after.scores)} |
| version | `{done.before.ref[:-56]}` | `{done.after.ref[:-56]}` |
{pictures(done)}
{verdict} is release {release.number} of `{done.deployment.reference}` on
{release.configuration.hardware}.

## Made before

{shown(done.made_before)}

## Made after

{shown(done.made_after)}
"""


def pictures(done: FineTuned) -> str:
    """A row of the table with what was made before and after, if it was pictures."""
    cells = [
        " ".join(filter(None, map(thumbnail, made.saved.files)))
        for made in (done.made_before, done.made_after)
    ]
    return f"| made | {cells[0]} | {cells[1]} |\n" if all(cells) else ""


def shown(made: Made) -> str:
    """What a model made: its text, and where all of it is kept."""
    # Indented, so that nothing a model writes is taken for Markdown.
    text = "\n".join(f"    {line}" for line in made.prediction.text.splitlines())
    said = [text] if [file.name for file in made.saved.files] == ["output.txt"] else []
    kept = [
        f"- `{file.uri}`, {file.size} bytes, sha256 `{file.sha256[:16]}…`"
        for file in made.saved.files
    ]
    return "\n\n".join([*said, "\n".join(kept)])


def thumbnail(file: SavedFile, side: int = 256) -> str:
    """A kept picture, small enough to stand in the page itself; nothing for other files."""
    small = io.BytesIO()
    try:
        from PIL import Image  # noqa: PLC0415 - without the extra `local` the page has no pictures

        with fsspec.open(file.uri, "rb") as content, Image.open(content) as picture:
            picture.thumbnail((side, side))
            picture.convert("RGB").save(small, "WEBP", quality=80)
    except Exception:  # noqa: BLE001 - no picture, or a broken one: the page does without it
        return ""
    data = base64.b64encode(small.getvalue()).decode()
    return f"![{file.name}](data:image/webp;base64,{data})"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--live", action="store_true", help="run on replicate.com, with your token and your money"
    )
    parser.add_argument(
        "--model", choices=MODELS, help="which example Local Replicate runs; text if not given"
    )
    parser.add_argument("--base-version", metavar="OWNER/NAME:ID")
    parser.add_argument("--destination", metavar="OWNER/NAME")
    parser.add_argument("--training-data", metavar="PATH-or-URL")
    parser.add_argument("--training-input", metavar="KEY=VALUE", nargs="+", default=[])
    parser.add_argument("--deployment", metavar="NAME")
    parser.add_argument("--hardware", metavar="SKU")
    parser.add_argument("--eval-data", metavar="PATH-or-URL")
    parser.add_argument("--scorer", metavar="NAME")
    parser.add_argument("--generate-input", metavar="KEY=VALUE", nargs="+", default=[])
    parser.add_argument("--storage", metavar="URL", default="./outputs")
    options = parser.parse_args()
    for name in ("training_input", "generate_input"):
        try:
            setattr(options, name, dict(map(key_value, getattr(options, name))))
        except ValueError as error:
            parser.error(f"--{name.replace('_', '-')}: {error}")
    needed = [
        "base_version",
        "destination",
        "training_data",
        "deployment",
        "hardware",
        "eval_data",
        "scorer",
    ]
    missing = [name for name in needed if not getattr(options, name)]
    if options.live and options.model:
        parser.error("--model is one of Local Replicate's examples; with --live there is none")
    if options.live and missing:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        parser.error(f"--live spends money, so it guesses nothing: also give {flags}")
    return options


def key_value(text: str) -> tuple[str, Any]:
    """Read "key=value"; the value is JSON where it can be, else the text itself."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise ValueError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


class OneScreen(logging.Filter):
    """Keep Prefect's tracebacks off the console; the run's own log has them, for the UI."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what reports the exception that ends the flow: the command prints it, once."""
        return not record.exc_info and "Finished in state Failed" not in record.getMessage()


def main() -> int:
    """Run the flow as the command line says; return the exit code."""
    options = arguments()
    setup_logging()  # Else Prefect replaces its handlers when the flow begins.
    for handler in logging.getLogger().handlers:
        handler.addFilter(OneScreen())
    parameters = {
        name: value
        for name, value in vars(options).items()
        if value and name not in {"live", "model"}
    }
    try:
        with ExitStack() as stack:
            if not options.live:
                parameters = local(stack, options.model or "text") | parameters
            print(report(fine_tune(**parameters)))
    except (BrokenModel, LocalReplicateError, OSError, ReplicateError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: what still ran was canceled.", file=sys.stderr)
        return 130
    return 0


def local(stack: ExitStack, model: str) -> dict[str, Any]:
    """Start Local Replicate with an example model, until the stack is closed."""
    server = stack.enter_context(LocalReplicate())
    return {
        **MODELS[model],
        "base_version": server.push(EXAMPLES / model, f"local/{model}"),
        "destination": f"local/{model}-tuned",
        "deployment": model,
        "hardware": "cpu",
        "credentials": server.credentials,
    }


if __name__ == "__main__":
    sys.exit(main())
