"""The program of a worker process: runs one Cog model and never outlives who started it.

Started by file name with `python -P`, so that neither this package nor its folder gets into the
model's way. Arguments: process id of the parent, reference of the model, "predict" or "train".
The port comes in PORT. Standard input stays open as long as the parent lives.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

_LIFELINE = Path(__file__).with_name("lifeline.py")


def main() -> None:
    """Serve the model until killed."""
    parent, reference, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    runpy.run_path(str(_LIFELINE))["end_with_parent"](parent, pipe=0)
    import coglet  # noqa: PLC0415 - slow, and the parent may die meanwhile

    coglet.server.serve(
        predictor_ref=reference,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        is_train=mode == "train",
    )


if __name__ == "__main__":
    main()
