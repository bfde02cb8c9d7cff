"""Faults, injected for real into runs on a real Slurm; and what must hold after each. For tests and `make faults`.

Every fault meets three runs of one study, in the middle of their training; what all runs share is broken three times. A
run has come through when its result is there, is made of every update once, and has the losses of a run that nobody
touched, to the last bit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hpcpar.records import Step
from hpcpar.runs import RunFolder

STEPS, EVERY = 40, 5
REPEATS = 3
PATIENCE_S = 900
STUDY = """
cluster = "slurm-test"
workload = "llama-tiny"
strategies = ["ddp"]
steps = {steps}
warmup_steps = 5
repeats = {repeats}
time = "20m"
[checkpoint]
every = {every}
requeue = {requeue}
[policy]
{policy}
"""


class TooLateError(Exception):
    """The run had left its node before the fault came."""


class Arena:
    """The cluster, the study that is disturbed, and what has been done to it so far."""

    def __init__(self, slurm: Any, runs: Path) -> None:
        self.slurm, self.runs = slurm, runs
        self.began = 0.0
        self.left: dict[str, Any] = {}
        """What a fault notes for its healing."""

    def status(self) -> dict[str, Any]:
        """Look as a user does; the study's policy is applied by it."""
        answer: dict[str, Any] = self.slurm.status(self.runs, timeout=240)
        return answer

    def daemon(self, name: str) -> int:
        """Return the process of a daemon that slurm-cluster has started."""
        started = json.loads((self.slurm.folder / "cluster.json").read_text())["started"]
        pid: int = started[name][0]
        return pid

    def node(self, row: dict[str, Any]) -> str:
        """Return the node on which a run is.

        Raises:
            TooLateError: it is on none any more.
        """
        asked = ("squeue", "--noheader", "--states=RUNNING", f"--jobs={row['job_id']}", "--format=%N")
        name: str = self.slurm.run(*asked, code=None).stdout.strip()
        if not name:
            raise TooLateError
        return name


class Processes:
    """The nodes' processes, as they are seen from outside."""

    @staticmethod
    def ranks(run: str, rank: int) -> list[int]:
        """Find a rank by its command line and Slurm's number of it."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_text() if entry.name.isdigit() else ""
                if run not in words or "hpcpar.worker" not in words:
                    continue
                if f"SLURM_PROCID={rank}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    @staticmethod
    def slurmd(first: int) -> list[int]:
        """Find the slurmd of a node, given the node's first process."""
        space = Path(f"/proc/{first}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "comm").read_text().strip() == "slurmd":
                    found += [int(entry.name)] if (entry / "ns" / "pid").readlink() == space else []
            except OSError:
                continue
        return found


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    how: str
    inject: Callable[[Arena, dict[str, Any]], None]
    policy: str = ""
    causes: frozenset[str] = frozenset()
    """Causes with which a run may be sent again by policy; empty: nothing may be."""
    requeued: bool = False
    """The job goes on under its own id."""
    requeue: bool = False
    """What the study's checkpoint table says."""
    shared: bool = False
    """It meets all runs at once, so it is injected three times, from the moment on that one of them runs."""
    heal: Callable[[Arena, dict[str, Any]], None] | None = None
    """Called at every look after the injection, with the run's row."""
    small_disk: bool = False
    """All runs are on one small disk: what one meets, all meet."""
    after: int = 8
    """Injected once a run has recorded so many steps."""


class Verdict(NamedTuple):
    """What a fault came to."""

    fault: Fault
    injected: int
    went_on: Counter[str]
    """By which way: "requeued", or the cause of a retry by policy."""
    lost: list[str]
    doubled: list[str]
    different: list[str]
    wrong_causes: list[str]
    replayed: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether everything held that must."""
        return not (self.lost or self.doubled or self.different or self.wrong_causes) and self.injected >= REPEATS


# ---------------------------------------------------------------- the faults


def _kill_rank(arena: Arena, row: dict[str, Any]) -> None:
    for pid in Processes.ranks(row["run"], 1):
        os.kill(pid, signal.SIGKILL)


def _stop_rank(arena: Arena, row: dict[str, Any]) -> None:
    for pid in Processes.ranks(row["run"], 1):
        os.kill(pid, signal.SIGSTOP)


def _requeue(arena: Arena, row: dict[str, Any]) -> None:
    arena.slurm.run("scontrol", "update", f"JobId={row['job_id']}", "Requeue=1")
    arena.slurm.run("scontrol", "requeue", row["job_id"])


def _warn_of_limit(arena: Arena, row: dict[str, Any]) -> None:
    arena.slurm.run("scancel", "--signal=USR1", row["job_id"])


def _shorten(arena: Arena, row: dict[str, Any]) -> None:
    arena.slurm.run("scontrol", "update", f"JobId={row['job_id']}", "TimeLimit=00:00:01")


def _preempt(arena: Arena, row: dict[str, Any]) -> None:
    node = arena.node(row)
    options = ("--partition=high", f"--nodelist={node}", "--exclusive", "--time=2", "--output=/dev/null")
    arena.slurm.run("sbatch", *options, "--wrap=sleep 2")


def _crash_node(arena: Arena, row: dict[str, Any]) -> None:
    node = arena.node(row)
    arena.slurm.script("kill-node", node)
    arena.left[row["run"]] = (node, row["attempts"], time.monotonic())


def _kill_slurmd(arena: Arena, row: dict[str, Any]) -> None:
    node = arena.node(row)
    for pid in Processes.slurmd(arena.daemon(f"slurmd.{node}")):
        os.kill(pid, signal.SIGKILL)
    arena.left[row["run"]] = (node, row["attempts"], time.monotonic())


def _reboot_node(arena: Arena, row: dict[str, Any]) -> None:
    """Bring a node back once Slurm has noticed."""
    node, attempts, since = arena.left.get(row["run"], ("", 0, 0.0))
    noticed = row["state"] != "running" or row["attempts"] != attempts or time.monotonic() - since > 120
    if node and noticed:
        del arena.left[row["run"]]
        if json.loads((arena.slurm.folder / "cluster.json").read_text())["started"].get(f"slurmd.{node}"):
            arena.slurm.script("kill-node", node)  # a node whose slurmd was killed is rebooted
        arena.slurm.script("start-node", node, timeout=120)


def _kill_controller(arena: Arena, row: dict[str, Any]) -> None:
    os.kill(arena.daemon("slurmctld"), signal.SIGKILL)
    answer = arena.status()
    assert any("could not be asked" in text for text in answer["trouble"]), answer["trouble"]
    assert all(row["state"] in ("running", "submitted", "done") for row in answer["rows"]), answer["rows"]
    arena.slurm.script("start-controller", timeout=120)


def _kill_accounting(arena: Arena, row: dict[str, Any]) -> None:
    os.kill(arena.daemon("slurmdbd"), signal.SIGKILL)
    arena.status()
    arena.slurm.script("start-accounting", timeout=120)


def _fill_disk(arena: Arena, row: dict[str, Any]) -> None:
    with contextlib.suppress(OSError), (arena.runs / "filler").open("ab", buffering=0) as file:
        while file.write(bytes(65536)):
            pass


def _free_disk(arena: Arena, row: dict[str, Any]) -> None:
    if row["state"] == "failed":
        (arena.runs / "filler").unlink(missing_ok=True)


FAULTS = (
    Fault("none", "nothing is done", lambda arena, row: None),
    Fault(
        "kill -9 of a rank",
        "SIGKILL to rank 1",
        _kill_rank,
        "killed = { retry = 2 }\nnetwork = { retry = 2 }",
        frozenset({"killed"}),
    ),
    Fault("scontrol requeue", "by the administrator", _requeue, requeued=True),
    Fault(
        "warning of the time limit",
        "`scancel --signal=USR1`, the signal that Slurm sends before the limit",
        _warn_of_limit,
        requeued=True,
        requeue=True,
    ),
    Fault(
        "time limit",
        "`scontrol update TimeLimit=1` second",
        _shorten,
        "timeout = { retry = 2 }",
        frozenset({"timeout"}),
    ),
    Fault(
        "preemption, requeued",
        "a job of partition high takes the node",
        _preempt,
        "preempted = { requeue = true }",
        requeued=True,
    ),
    Fault(
        "preemption, ended",
        "the same; the job may not be requeued",
        _preempt,
        "preempted = { retry = 2 }",
        frozenset({"preempted"}),
    ),
    Fault(
        "crash of a node",
        "all processes of the node at once, and its network",
        _crash_node,
        "node_fail = { retry = 3 }",
        frozenset({"node_fail"}),
        heal=_reboot_node,
    ),
    Fault(
        "kill -9 of slurmd",
        "SIGKILL to a node's slurmd; its ranks run on",
        _kill_slurmd,
        "node_fail = { retry = 3 }",
        frozenset({"node_fail"}),
        heal=_reboot_node,
    ),
    Fault("kill -9 of slurmctld", "SIGKILL, a look, a start", _kill_controller, shared=True),
    Fault("kill -9 of slurmdbd", "SIGKILL, a look, a start", _kill_accounting, shared=True),
    Fault(
        "a rank that hangs",
        "SIGSTOP to rank 1",
        _stop_rank,
        'hang_after = "8s"\nhung = { retry = 2 }',
        frozenset({"hung"}),
    ),
    Fault(
        "full disk",
        "a tmpfs filled up under the runs folder",
        _fill_disk,
        "storage = { retry = 9 }",
        frozenset({"storage"}),
        heal=_free_disk,
        small_disk=True,
    ),
)


# ---------------------------------------------------------------- one fault


@dataclass
class _Course:
    """Which runs have met the fault so far, and how often all have."""

    met: set[str] = field(default_factory=set)
    times: int = 0


def disturb(slurm: Any, place: Path, fault: Fault, undisturbed: list[float | None] | None) -> Verdict:
    """Submit a study, inject the fault into each of its runs, and wait until all is done; judge."""
    arena = Arena(slurm, place / "runs")
    arena.runs.mkdir(parents=True, exist_ok=True)
    text = STUDY.format(
        steps=STEPS, every=EVERY, repeats=REPEATS, policy=fault.policy, requeue=str(fault.requeue).lower()
    )
    (place / "study.toml").write_text(text)
    begun = time.monotonic()
    slurm.hpcpar("submit", str(place / "study.toml"), "--runs", str(arena.runs))
    course = _Course()
    rows: list[dict[str, Any]] = []
    while time.monotonic() - begun < PATIENCE_S:
        rows = arena.status()["rows"]
        for row in rows:
            _meet(arena, fault, row, course)
        if all(row["state"] == "done" for row in rows):
            break
        time.sleep(0.5)
    return _judge(arena, fault, rows, course, undisturbed, time.monotonic() - begun)


def _meet(arena: Arena, fault: Fault, row: dict[str, Any], course: _Course) -> None:
    run = row["run"]
    if fault.heal is not None and (run in course.met or fault.small_disk):
        fault.heal(arena, row)
    if row["state"] != "running" or run in course.met or course.times >= REPEATS:
        return
    # What all runs share is broken as soon as one runs, and again at every look: in the start, and in the training.
    if fault.shared or (row["attempts"] == 1 and fault.after <= row["step"] < STEPS - EVERY):
        try:
            fault.inject(arena, row)
        except TooLateError:
            return
        course.times += REPEATS if fault.small_disk else 1
        if not fault.shared:
            course.met.add(run)


def _judge(
    arena: Arena,
    fault: Fault,
    rows: list[dict[str, Any]],
    course: _Course,
    undisturbed: list[float | None] | None,
    seconds: float,
) -> Verdict:
    folders = [RunFolder(Path(row["folder"])) for row in rows]
    lost = [row["run"] for row in rows if row["state"] != "done"]
    doubled, different, wrong = [], [], []
    went_on: Counter[str] = Counter()
    replayed = 0
    for folder in folders:
        if folder.record() is None:
            continue
        steps = kept(folder)
        doubled += [folder.path.name] * ([step.step for step in steps] != list(range(1, STEPS + 1)))
        different += [folder.path.name] * (undisturbed is not None and [step.loss for step in steps] != undisturbed)
        ways = how_it_went_on(folder)
        went_on += Counter(ways)
        wrong += [f"{folder.path.name}: {way}" for way in ways if way not in expected(fault)]
        replayed += sum(len(folder.steps(name).records) for name in folder.attempts()) - STEPS
    return Verdict(fault, min(course.times, REPEATS), went_on, lost, doubled, different, wrong, replayed, seconds)


def expected(fault: Fault) -> set[str]:
    """Return the ways in which a run may go on after a fault."""
    return {*fault.causes, *(["requeued"] if fault.requeued else [])}


def how_it_went_on(folder: RunFolder) -> list[str]:
    """Return for each attempt after the first why there was one."""
    reasons = [line.reason for line in folder.submissions() if line.kind == "submitted"][1:]
    restarts = sum(int(name.rpartition(".")[2]) > 0 for name in folder.attempts())
    return [reason.removeprefix("policy: ").partition(" ")[0] for reason in reasons] + ["requeued"] * restarts


def kept(folder: RunFolder) -> list[Step]:
    """Return the steps that a run's result is made of."""
    record = folder.record()
    assert record is not None
    spans = [(span.attempt, span.first, span.last) for span in record.lineage] or [(record.attempt, 1, record.steps)]
    return [step for name, first, last in spans for step in folder.steps(name).records if first <= step.step <= last]


def new_cluster() -> Any:
    """Return a cluster that is not up yet, in a folder of its own; for programs that are no tests."""
    spec = importlib.util.spec_from_file_location("slurm_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Unix sockets allow 107 bytes.
    return module.Slurm(Path(tempfile.mkdtemp(prefix="hpf-", dir="/tmp")))


def mount_small_disk(place: Path, megabytes: int = 256) -> None:
    """Mount a small tmpfs; before the cluster starts, so that its nodes see it."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "hpcpar-faults", str(place)]
    subprocess.run(command, check=True)


def unmount(place: Path) -> None:
    """Undo it."""
    subprocess.run(["umount", "--lazy", str(place)], check=False)
