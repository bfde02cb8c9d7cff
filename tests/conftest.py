"""What every test gets: a home, a state folder and a runs folder of its own, and no word of an outer job."""

import itertools
import os
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no finding: how long an example took says nothing here.
settings.register_profile("hpcpar", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hpcpar")

_OUTER = ("HPCPAR_", "SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")
_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def isolation(tmp_path_factory):
    """Point everything that hpcpar would look for at folders of this test alone; they are made when first used."""
    place = tmp_path_factory.getbasetemp() / "isolation" / str(next(_NUMBERS))
    # Not `tmp_path` and `monkeypatch`: Hypothesis refuses tests that draw on fixtures made once for all examples.
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_OUTER)]:
            patch.delenv(name)
        patch.delenv("XDG_STATE_HOME", raising=False)
        patch.setenv("HOME", str(place / "home"))
        patch.setenv("XDG_CONFIG_HOME", str(place / "config"))
        patch.setenv("HPCPAR_STATE", str(place / "state"))
        patch.setenv("HPCPAR_RUNS", str(place / "runs"))
        (place / "home").mkdir(parents=True, exist_ok=True)
        yield place


class Commands:
    """A folder of stub commands that alone is on PATH."""

    def __init__(self, folder: Path, real: dict[str, str]) -> None:
        self.folder = folder
        self._real = real
        folder.mkdir(parents=True, exist_ok=True)

    def borrow(self, *names: str) -> None:
        """Let the real commands of these names be found."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            (self.folder / name).symlink_to(self._real[name])

    def write(self, name: str, body: str) -> Path:
        """Write a stub: the body of a bash script."""
        path = self.folder / name
        path.write_text(f"#!{self._real['bash']}\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Take away every command; a test adds the stubs that it needs."""
    names = "bash sh cat date mkdir touch env sleep kill rm true false timeout od tr cp tar find id stat ls".split()
    real = {name: path for name in names if (path := shutil.which(name))}
    stubs = Commands(tmp_path / "bin", real)
    monkeypatch.setenv("PATH", str(stubs.folder))
    return stubs
