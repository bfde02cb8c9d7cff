"""What the start of one rank asks of the file system that the environment lies on, and what of it an archive leaves.

    python benchmarks/import_storm.py

Counts, with strace, the system calls that name a path below the environment while a rank imports what it needs for
`ddp`: as it lies, and from a copy elsewhere of the same files (linked, not copied), as `environment.archive` makes one
on every node. Counts do not depend on the machine's load. Exit code 1: the copy still asks for a twentieth or more.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RANK = "import hpcpar.worker.main, hpcpar.worker.strategies.ddp, hpcpar.worker.mesh_engine.build, torch.optim"
BOUND = 0.05


def calls(python: Path, prefix: Path, folder: Path) -> int:
    """Return how many system calls name a path below `prefix` while this interpreter starts a rank."""
    log = folder / "strace"
    command = ["strace", "-f", "-qq", "-e", "trace=%file", "-s", "4096", "-o", str(log), str(python), "-B", "-c", RANK]
    subprocess.run(command, check=True, cwd=folder)
    with log.open(encoding="utf-8", errors="replace") as lines:
        return sum(f'"{prefix}/' in line for line in lines)


def main() -> int:
    """Count, print, judge."""
    if shutil.which("strace") is None:
        print("strace is not installed", file=sys.stderr)
        return 2
    prefix = Path(sys.prefix)
    with tempfile.TemporaryDirectory(prefix="hpcpar-storm-") as temporary:
        folder = Path(temporary)
        before = calls(prefix / "bin" / "python", prefix, folder)
        subprocess.run(["cp", "--archive", "--link", str(prefix), str(folder / "copy")], check=True)
        after = calls(folder / "copy" / "bin" / "python", prefix, folder)
    print("| environment | calls on its file system, a rank |")
    print("|---|---|")
    print(f"| as it lies | {before:,} |")
    print(f"| `environment.archive` | {after:,}, and one file read for the whole job |")
    return int(after > BOUND * before)


if __name__ == "__main__":
    sys.exit(main())
