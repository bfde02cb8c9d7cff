"""Kill `hpcpar submit` at every write, rename and sbatch, each just before and just after, and see what is left.

    python crash_submit.py FOLDER ARGUMENTS OF SUBMIT...        on the login node of the test cluster

Each submit is a child process that ends itself by SIGKILL at its N-th boundary; then `hpcpar status` and the same
submit once more follow. Prints one JSON line a boundary: what Slurm's queue held after the kill and at the end, and
which runs status had adopted.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from submitit.core.utils import DelayedSubmission

from hpcpar import records, runs, storage
from hpcpar.cli import main
from hpcpar.control import executors, gate, local_queue, noting, slurm, status, submit, writing  # noqa: F401 - before the forks

# A submission without an answer counts as lost at once: whoever asked died together with its sbatch.
noting.IN_FLIGHT_S = 0.0
# A few runs are written as many are: that all of them are waited for at once is a boundary, too.
writing._FEW = 0

_count = {"left": 0, "seen": 0}


def _boundary():
    _count["seen"] += 1
    if _count["seen"] == _count["left"]:
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


def _install():
    _guard(storage, runs, writing, local_queue, name="make_folder")
    _guard(storage, writing, name="sync")
    _guard(storage, runs, local_queue, name="write_file")
    _guard(storage, runs, records, name="append_line")
    _guard(slurm, name="sbatch")
    _guard(DelayedSubmission, name="dump")
    _guard(Path, name="rename")


def _in_child(arguments, die_at=0):
    """Run hpcpar in a fork; return its exit code (negative: the signal) and how many boundaries it passed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _count.update(left=die_at, seen=0)
        code = main(arguments)
        os.write(write, str(_count["seen"]).encode())
        os._exit(code)
    os.close(write)
    _, state = os.waitpid(pid, 0)
    passed = os.read(read, 20)
    os.close(read)
    return os.waitstatus_to_exitcode(state), int(passed or 0)


def _queued(study):
    """Count how often each run stands in the queue, by the batch in the job's name and the batch's manifest."""
    listing = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%j|%K"], capture_output=True, text=True, check=True
    )
    counts = Counter()
    for line in listing.stdout.split():
        name, _, task = line.partition("|")
        manifest = study / "batches" / name.rpartition("-")[2] / "manifest.jsonl"
        if manifest.exists():
            lines = [json.loads(text) for text in manifest.read_text().splitlines() if text.strip()]
            index = int(task) if task.isdigit() else 0
            counts[next(one["run"] for one in lines if one["kind"] == "run" and one.get("index") == index)] += 1
    return counts


def _adopted(study):
    found = []
    for path in study.glob("*/submission.jsonl"):
        with contextlib.suppress(OSError):
            if '"submitted"' in path.read_text():
                found.append(path.parent.name)
    return sorted(found)


def _try(folder, name, arguments, boundary):
    root = folder / f"at{boundary}"
    study = root / name
    code, passed = _in_child(["submit", *arguments, "--name", name, "--runs", str(root)], boundary)
    after_kill = _queued(study)
    if study.is_dir():
        _in_child(["status", str(root), "--json"])
    adopted = _adopted(study)
    last, _ = _in_child(["submit", *arguments, "--name", name, "--runs", str(root)])
    print(
        json.dumps(
            {
                "boundary": boundary,
                "code": code,
                "passed": passed,
                "after_kill": after_kill,
                "adopted": adopted,
                "last_code": last,
                "final": _queued(study),
            }
        ),
        flush=True,
    )
    subprocess.run(["scancel", "--quiet", f"--user={os.getuid()}"], check=False)
    return passed


_install()
_boundaries = _try(Path(sys.argv[1]), "crash", sys.argv[2:], 0)
for _at in range(1, _boundaries + 1):
    _try(Path(sys.argv[1]), "crash", sys.argv[2:], _at)
