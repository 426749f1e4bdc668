"""Every few minutes, cancel the jobs at Replicate that no flow run wants any more.

python flows/sweep.py           every five minutes, for as long as it runs
python flows/sweep.py --once    now, and once
"""

import argparse
from typing import Any

from prefect import flow

from prefect_replicate import ReplicateCredentials, SweptRun, sweep_jobs


@flow(name="sweep")
def sweep(credentials_block: str | None = None, patience: float | None = None) -> list[SweptRun]:
    """Do for flow runs with jobs what nobody is there to do.

    Args:
        credentials_block: Name of the ReplicateCredentials that may cancel the jobs; those that
            made them if None, where they are saved, or else the default ones.
        patience: Seconds for which a flow run that failed or crashed may still be run again.
    """
    # In a sync flow it is loaded at once, and not a coroutine.
    credentials: Any = ReplicateCredentials.load(credentials_block) if credentials_block else None
    return sweep_jobs(credentials=credentials, patience=patience)


def main() -> None:
    """Run it once, or serve it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--once", action="store_true", help="now, and once")
    parser.add_argument("--every", type=float, default=300, metavar="SECONDS")
    parser.add_argument("--credentials-block", metavar="NAME")
    parser.add_argument("--patience", type=float, metavar="SECONDS")
    arguments = parser.parse_args()
    given = {"credentials_block": arguments.credentials_block, "patience": arguments.patience}
    if arguments.once:
        sweep(**given)
    else:
        sweep.serve("sweep", interval=arguments.every, parameters=given)


if __name__ == "__main__":
    main()
