"""The wheel as a user gets it: built, installed without extras into an environment of its own, used from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python has it since 3.11.4."""
ROOT = Path(__file__).resolve().parents[2]
DATA = {"clusters": "*.toml", "jobs": "*.toml", "templates": "*.j2"}
HEADLINE = ("submit", "--cluster", "perlmutter", "--strategy", "hybrid", "--nodes", "4", "--dry-run")
_PYTHON = re.compile(r"\S+/bin/python[0-9.]*")


class Built(NamedTuple):
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


class Installed(NamedTuple):
    """The environment with the wheel and nothing that a developer has besides."""

    python: Path
    elsewhere: Path

    def hpcpar(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python.parent / "hpcpar"), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.elsewhere, timeout=60)


def pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words, "--quiet"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def build(hatch: Path, tree: Path, out: Path, *targets: str) -> None:
    wanted = [word for target in targets for word in ("-t", target)]
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", *wanted, "-d", str(out)],
        capture_output=True,
        text=True,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(hatch)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    place = tmp_path_factory.mktemp("built")
    pip("install", "--target", str(place / "hatch"), "hatchling>=1.27")
    build(place / "hatch", ROOT, place / "tree", "sdist", "wheel")
    (sdist,) = (place / "tree").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", **SAFELY)
    (unpacked,) = (place / "unpacked").iterdir()
    build(place / "hatch", unpacked, place / "again", "wheel")
    return Built(sdist, next((place / "tree").glob("*.whl")), next((place / "again").glob("*.whl")))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True, timeout=60)
    python = place / "venv" / "bin" / "python"
    pip("--python", str(python), "install", "--no-compile", str(built.wheel))
    (place / "elsewhere").mkdir()
    return Installed(python, place / "elsewhere")


def test_the_wheel_holds_clusters_jobs_and_templates_as_in_the_checkout(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        for kind, pattern in DATA.items():
            prefix = f"hpcpar/_data/{kind}/"
            shipped = {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)}
            assert shipped == {path.name for path in (ROOT / kind).glob(pattern)}
            for name in shipped:
                assert archive.read(prefix + name) == (ROOT / kind / name).read_bytes()


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    found = names(built.wheel)
    tops = {name.partition("/")[0] for name in found}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hpcpar"}
    assert not [name for name in found if {"tests", "__pycache__"} & set(name.split("/")) or name.endswith(".pyc")]
    assert {name for name in found if name.endswith(".py")} == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "hpcpar").rglob("*.py")
    }


def test_a_wheel_made_of_the_sdist_has_the_files_of_one_made_of_the_tree(built: Built) -> None:
    assert names(built.wheel_of_sdist) == names(built.wheel)


def test_the_sdist_can_be_tested_and_read(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    wanted = "README.md LICENSE CHANGELOG.md Makefile pyproject.toml hpcpar clusters jobs templates tests docs examples"
    assert set(wanted.split()) <= tops


def test_it_says_its_version(installed: Installed) -> None:
    import hpcpar

    assert printed(installed.hpcpar("--version")) == f"hpcpar {hpcpar.__version__}\n"


@pytest.mark.parametrize("kind", ["clusters", "jobs", "templates", "strategies", "workloads"])
def test_it_lists_what_the_checkout_lists(installed: Installed, kind: str) -> None:
    own = printed(installed.hpcpar("list", kind)).split("\n")
    here = printed(
        subprocess.run(
            [sys.executable, "-m", "hpcpar", "list", kind], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
    ).split("\n")
    assert [line.partition(" ")[0] for line in own] == [line.partition(" ")[0] for line in here]
    assert any(own)


def test_a_dry_run_prints_the_script_of_the_checkout(installed: Installed, tmp_path: Path) -> None:
    place = ("--runs", str(tmp_path / "runs"))
    own = printed(installed.hpcpar(*HEADLINE, *place))
    here = printed(
        subprocess.run(
            [sys.executable, "-m", "hpcpar", *HEADLINE, *place], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
    )
    assert "#SBATCH --nodes=4" in own
    assert str(installed.python.parent) in own, "the ranks are started with the Python that submitted"
    assert _PYTHON.sub("PYTHON", own) == _PYTHON.sub("PYTHON", here)
    assert not list(tmp_path.iterdir())


def test_it_brings_no_torch_and_a_real_submit_says_how_to_install_it(installed: Installed) -> None:
    found = [str(installed.python), "-c", "import torch"]
    assert b"No module named 'torch'" in subprocess.run(found, capture_output=True, timeout=60).stderr
    done = installed.hpcpar("submit", "--cluster", "local", "--strategy", "ddp", "--nodes", "1")
    assert done.returncode == 2
    assert "pip install 'hpcpar[torch]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(installed.elsewhere.iterdir()), "nothing was submitted, nothing was written"
