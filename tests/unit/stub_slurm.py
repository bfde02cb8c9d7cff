"""A scheduler out of stub commands: sbatch counts up job ids, squeue and sacct say what a test wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcpar import records
from hpcpar.cli import main
from hpcpar.records import Event
from hpcpar.runs import RunFolder, StudyFolder

STUDY = """
name = "s"
cluster = "slurm-test"
workload = "mlp"
strategies = ["ddp"]
nodes = [2]
repeats = {repeats}
{more}
"""


class StubSlurm:
    """Write what squeue and sacct say; see what sbatch and the others were told."""

    def __init__(self, commands: Any, place: Path) -> None:
        self.place, self.runs = place, place / "runs"
        self.queue, self.accounting = place / "queue", place / "accounting"
        self.queue.touch()
        self.accounting.touch()
        (place / "count").write_text("0")
        note = f'echo "${{0##*/}} $*" >>{place}/calls'
        commands.borrow("cat")
        commands.write("srun", "exit 0")
        commands.write("sbatch", f"{note}; n=$(($(cat {place}/count) + 1)); echo $n >{place}/count; echo $n")
        commands.write("squeue", f"{note}; cat {self.queue}")
        commands.write("sacct", f"{note}; cat {self.accounting}")
        commands.write("sinfo", f"{note}; printf 'n1|idle\\nn2|down*\\nn3|drained\\n'")
        self.commands = commands

    def submit(self, more: str = "", repeats: int = 3, flags: Sequence[str] = ()) -> list[RunFolder]:
        """Submit the study; return its runs in the order of their array index."""
        path = self.place / "s.toml"
        path.write_text(STUDY.format(more=more, repeats=repeats))
        assert main(["submit", str(path), "--runs", str(self.runs), *flags]) == 0
        return self.in_order()

    def in_order(self, batch: int = 0) -> list[RunFolder]:
        manifest = self.study.batches()[batch].read()
        return [self.study.run(manifest.runs[index]) for index in sorted(manifest.runs)]

    @property
    def study(self) -> StudyFolder:
        return StudyFolder(self.runs / "s")

    def calls(self, name: str) -> int:
        """How often a command was called since the last question about any."""
        path = self.place / "calls"
        return sum(line.split()[0] == name for line in path.read_text().splitlines()) if path.exists() else 0

    def forget_calls(self) -> None:
        (self.place / "calls").unlink(missing_ok=True)

    def ends(self, job: str, state: str, exit_code: str = "1:0") -> None:
        """Let the accounting say how a job ended."""
        with self.accounting.open("a") as file:
            file.write(f"{job}|{state}|{exit_code}|10|n[1-2]|name|None\n")

    def holds(self, *lines: str) -> None:
        """Let the queue hold these jobs: "JOB|TASK|STATE"."""
        parts = [line.split("|") for line in lines]
        self.queue.write_text("".join(f"{j}|{t}|{s}|0:05|N/A|(Priority)|name|n1\n" for j, t, s in parts))


def began(run: RunFolder, attempt: str, *hosts: str) -> None:
    """Write the first event of an attempt."""
    records.append(run.events_path(attempt), Event(time=1.0, kind="start", host=hosts[0], data={"hosts": list(hosts)}))


def failed(run: RunFolder, attempt: str, cause: str, host: str, *, echo: bool = False) -> None:
    """Write why an attempt failed."""
    data = {"cause": cause, "message": "the message", **({"echo": True} if echo else {})}
    records.append(run.events_path(attempt), Event(time=2.0, kind="error", host=host, data=data))
    records.append(run.events_path(attempt), Event(time=3.0, kind="script_exit", data={"code": 1}))
