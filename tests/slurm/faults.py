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
PATIENCE_S = 1800
LOOK_S = 3.0
"""Between two looks by `status`; the runs' own files are looked at all the time."""
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


class TooEarlyError(Exception):
    """There is nothing to break yet."""


class WrongWordError(Exception):
    """hpcpar said something else than what is true."""


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
    states = {row["run"]: row["state"] for row in answer["rows"]}
    under_way = [run for run, state in states.items() if state != "done"]
    if under_way and not any("could not be asked" in text for text in answer["trouble"]):
        raise WrongWordError(f"nothing is said of a controller that is down: {answer['trouble']}")
    arena.slurm.script("start-controller", timeout=120)


def _damage_checkpoint(arena: Arena, row: dict[str, Any]) -> None:
    newest = max(
        Path(row["folder"], "checkpoints").glob("step-*"),
        key=lambda path: int(path.name.partition("-")[2]),
        default=None,
    )
    if newest is None:
        raise TooEarlyError
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        file.write(b"damaged!")
    _kill_rank(arena, row)


def _cut_connections(arena: Arena, row: dict[str, Any]) -> None:
    pids = Processes.ranks(row["run"], 1)
    if not pids:
        raise TooLateError
    # Every established connection of the node's network that a rank holds; Slurm's own live in other processes.
    inside = ["nsenter", f"--target={pids[0]}", "--net", "ss", "--kill", "--tcp", "state", "established"]
    ports = _ports_of(pids[0])
    for port in ports:
        subprocess.run([*inside, "sport", "=", f":{port}"], capture_output=True, check=False)


def _ports_of(pid: int) -> list[str]:
    asked = ["nsenter", f"--target={pid}", "--net", "ss", "--tcp", "--numeric", "--processes", "--no-header"]
    lines = subprocess.run([*asked, "state", "established"], capture_output=True, text=True, check=True).stdout
    mine = [line.split() for line in lines.splitlines() if f"pid={pid}," in line]
    return [words[2].rpartition(":")[2] for words in mine]


def _lose_memory(arena: Arena, row: dict[str, Any]) -> None:
    pids = Processes.ranks(row["run"], 1)
    if not pids:
        raise TooLateError
    used = int(Path(f"/proc/{pids[0]}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    subprocess.run(["prlimit", f"--pid={pids[0]}", f"--as={used}"], check=True)


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
    Fault(
        "kill -9 of slurmctld",
        "SIGKILL, a look, a start",
        _kill_controller,
        "vanished = { retry = 5 }\nnode_fail = { retry = 5 }\nlaunch = { retry = 5 }",
        frozenset({"vanished", "node_fail", "launch"}),
        requeued=True,
        shared=True,
    ),
    Fault("kill -9 of slurmdbd", "SIGKILL, a look, a start", _kill_accounting, shared=True),
    Fault(
        "a rank that hangs",
        "SIGSTOP to rank 1",
        _stop_rank,
        'hang_after = "20s"\nhung = { retry = 2 }',
        frozenset({"hung"}),
    ),
    Fault(
        "lost connection",
        "all of rank 1's TCP connections are cut (`ss --kill`)",
        _cut_connections,
        "network = { retry = 2 }",
        frozenset({"network"}),
    ),
    Fault(
        "out of memory",
        "rank 1 gets no more memory than it has (`prlimit --as`)",
        _lose_memory,
        "oom_host = { retry = 2 }",
        frozenset({"oom_host"}),
    ),
    Fault(
        "damaged checkpoint",
        "eight bytes of the newest checkpoint are overwritten, then SIGKILL to rank 1",
        _damage_checkpoint,
        "killed = { retry = 2 }\nnetwork = { retry = 2 }",
        frozenset({"killed"}),
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
    slurm.hpcpar("submit", str(place / "study.toml"), "--runs", str(arena.runs), timeout=600)
    course = _Course()
    rows: list[dict[str, Any]] = []
    while time.monotonic() - begun < PATIENCE_S:
        rows = arena.status()["rows"]
        for row in rows:
            if fault.heal is not None and (row["run"] in course.met or fault.small_disk):
                fault.heal(arena, row)
        if all(row["state"] == "done" for row in rows):
            break
        _wait_and_break(arena, fault, rows, course)
    return _judge(arena, fault, rows, course, undisturbed, time.monotonic() - begun)


def _wait_and_break(arena: Arena, fault: Fault, rows: list[dict[str, Any]], course: _Course) -> None:
    """Follow the runs by their own files until the next look; break what has come far enough."""
    end = time.monotonic() + LOOK_S
    while time.monotonic() < end:
        for row in rows:
            if row["state"] == "running" and row["run"] not in course.met and course.times < REPEATS:
                _meet(arena, fault, row, course)
        time.sleep(0.1)


def _meet(arena: Arena, fault: Fault, row: dict[str, Any], course: _Course) -> None:
    folder = RunFolder(Path(row["folder"]))
    attempts = folder.attempts()
    step = folder.last_step(attempts[-1]) if attempts else 0
    # What all runs share is broken as soon as one runs, and again at every look: in the start, and in the training.
    if not fault.shared and not (len(attempts) == 1 and fault.after <= step < STEPS - EVERY):
        return
    try:
        fault.inject(arena, row)
    except (TooLateError, TooEarlyError):
        return
    course.times += REPEATS if fault.small_disk else 1
    if not fault.shared:
        course.met.add(row["run"])
    else:
        time.sleep(LOOK_S)


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
