"""An environment that is brought to the nodes as one file, on a real Slurm."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]


def _archive(folder: Path) -> Path:
    """Make a small environment that finds its packages in this one, and says in a file where it was started from."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "env" / "lib" / version / "site-packages"
    (packages / "others.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{REPOSITORY}\n")
    said = f"import sys\nwith open({str(folder / 'started')!r}, 'a') as file:\n    file.write(sys.prefix + '\\n')\n"
    (packages / "sitecustomize.py").write_text(said)
    subprocess.run(["tar", "-cf", folder / "env.tar", "-C", folder / "env", "."], check=True)
    return folder / "env.tar"


@pytest.mark.parametrize("fault", ["", "damaged"])
def test_ranks_start_from_the_copy_on_their_node_and_nothing_is_left(slurm: Any, tmp_path: Path, fault: str) -> None:
    archive, local = _archive(tmp_path), tmp_path / "local disk"
    local.mkdir()
    if fault:
        archive.write_bytes(archive.read_bytes()[:700])
    profile = (REPOSITORY / "clusters" / "slurm-test.toml").read_text()
    profile = profile.replace('name = "slurm-test"', f'name = "mine"\nnode_local = "{local}"')
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mine.toml").write_text(f'{profile}\n[environment]\narchive = "{archive}"\n')
    words = ("--workload", "clockwork", "--strategy", "clockwork", "--nodes", "1", "--steps", "5", "--repeats", "2")
    slurm.hpcpar(
        *("submit", "--cluster", "mine", *words, "--warmup-steps", "1", "--runs", str(tmp_path / "runs")),
        env={"HPCPAR_PATH": str(tmp_path)},
    )
    status = slurm.wait(tmp_path / "runs", lambda found: set(found["counts"]) <= {"done", "failed"}, 120)
    assert status["counts"] == {"done": 2}, status
    started = set((tmp_path / "started").read_text().split("\n")[:-1]) if (tmp_path / "started").exists() else set()
    log = "".join(path.read_text() for path in (tmp_path / "runs").rglob("batches/*/logs/*.log"))
    if fault:
        assert started == set()
        assert log.count("hpcpar: the environment could not be brought to the nodes") == 2
    else:
        assert {Path(prefix).parent for prefix in started} == {local}
        assert len(started) == 2, "each job has a copy of its own"
        assert "could not be brought" not in log
    end = time.monotonic() + 60  # the results are there a moment before the jobs end
    while slurm.jobs() and time.monotonic() < end:
        time.sleep(0.3)
    assert list(local.iterdir()) == [], "nothing is left on the node"
