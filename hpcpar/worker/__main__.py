"""The worker: what the job script starts once on every rank.

    PYTHON -m hpcpar.worker PAYLOAD RUN_FOLDER

PAYLOAD is a pickled submitit.DelayedSubmission that refers to the worker's entry (registry.WORKER_ENTRY); a job is the
only place where it is unpickled. Exit codes: 0 done, 1 a failure that was recorded, 2 wrong arguments, 128+N signal N.
"""

from __future__ import annotations

import os
import sys

USAGE = "usage: python -m hpcpar.worker PAYLOAD RUN_FOLDER"


def main(arguments: list[str]) -> int:
    """Run one rank and return its exit code."""
    if len(arguments) != 2:
        print(USAGE, file=sys.stderr)
        return 2
    payload, run_folder = arguments
    from submitit.core.utils import DelayedSubmission

    DelayedSubmission.load(payload).function(run_folder)
    return 0


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        # Past a failure the destructors of process groups wait for peers that are gone; there is nothing to save.
        os._exit(code)
    sys.exit(0)


if __name__ == "__main__":
    try:
        _exit(main(sys.argv[1:]))
    except SystemExit as error:
        _exit(error.code if isinstance(error.code, int) else int(error.code is not None))
