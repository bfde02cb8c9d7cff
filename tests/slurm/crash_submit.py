"""Run hpcpar and die by SIGKILL at the N-th write, rename or sbatch: `python crash_submit.py N ARGUMENTS...`.

Each of these is a boundary twice: just before it and just after it. N = 0 never dies. The exit code of a run that was
not killed is hpcpar's own; the number of boundaries goes to the file named by CRASH_COUNT.
"""

import os
import signal
import sys
from pathlib import Path

from submitit.core.utils import DelayedSubmission

from hpcpar import records, runs, storage
from hpcpar.control import local_queue, reconcile, slurm, submit

# A submission without an answer counts as lost at once: whoever asked died together with its sbatch.
reconcile.IN_FLIGHT_S = 0.0

_left = int(sys.argv[1])
_seen = 0


def _boundary():
    global _seen
    _seen += 1
    if _seen == _left:
        os.kill(os.getpid(), signal.SIGKILL)


def _guard(*places, name):
    real = getattr(places[0], name)

    def guarded(*args, **kwargs):
        _boundary()
        result = real(*args, **kwargs)
        _boundary()
        return result

    for place in places:
        setattr(place, name, guarded)


_guard(storage, runs, submit, local_queue, name="make_folder")
_guard(storage, runs, local_queue, name="write_file")
_guard(storage, runs, records, name="append_line")
_guard(slurm, name="sbatch")
_guard(DelayedSubmission, name="dump")
_guard(Path, name="rename")

from hpcpar.cli import main  # noqa: E402

code = main(sys.argv[2:])
if "CRASH_COUNT" in os.environ:
    Path(os.environ["CRASH_COUNT"]).write_text(str(_seen))
sys.exit(code)
