"""A real Slurm for the tests: four nodes with their own network, host name and processes, started once a session."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "examples" / "slurm-cluster"
REQUIRED = bool(os.environ.get("CI"))
"""In CI a missing Slurm is a failure: skipping must not look green."""


EXPECTED = Path(__file__).with_name("expected_tests.txt")
"""How many tests must have run on the real Slurm, by pytest's `-m`: skipping or losing some must not look green."""

_ran: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed and "slurm" in report.keywords:
        _ran.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a whole session that ran fewer tests on Slurm than are known to exist, where Slurm can run."""
    whole = session.config.args == session.config.getini("testpaths") or not session.config.args
    if exitstatus != 0 or not whole or session.config.option.keyword or not _can_run():
        return
    expected = dict(line.rsplit(maxsplit=1) for line in EXPECTED.read_text().splitlines() if not line.startswith("#"))
    wanted = expected.get(session.config.option.markexpr or "everything")
    if wanted is not None and len(_ran) < int(wanted):
        session.exitstatus = 1
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"FAILED: {len(_ran)} tests ran on real Slurm, {EXPECTED.name} says {wanted}", red=True)


def _can_run() -> bool:
    check = subprocess.run([sys.executable, str(SCRIPT), "check"], capture_output=True, text=True, timeout=60)
    return REQUIRED or check.returncode == 0


class Slurm:
    """The running cluster, seen from its login node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Tests look many times a minute; who may call how often is tested elsewhere.
        self.environment = {**os.environ, "HPCPAR_SLURM_DIR": str(folder), "HPCPAR_CALLS": "100000,1000"}

    def script(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Call slurm-cluster."""
        command = [sys.executable, str(SCRIPT), *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def run(
        self,
        *command: str,
        env: dict[str, str] | None = None,
        timeout: float = 120,
        code: int | None = 0,
        cwd: Any = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node; `code` is what it must return (None: whatever)."""
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "exec", *command],
            env={**self.environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
        )
        if code is not None:
            assert done.returncode == code, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def hpcpar(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run hpcpar on the login node."""
        return self.run(sys.executable, "-m", "hpcpar", *arguments, **options)

    def status(self, runs: Path, **options: Any) -> dict[str, Any]:
        """Return what `hpcpar status --json` says; its exit code only tells whether a run failed."""
        done = self.hpcpar("status", str(runs), "--json", code=None, **options)
        assert done.returncode in (0, 1), done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def wait(self, runs: Path, until: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
        """Look at the status until a condition holds; fail with what was seen last."""
        end = time.monotonic() + seconds
        while True:
            status = self.status(runs)
            if until(status):
                return status
            assert time.monotonic() < end, f"not within {seconds} s: {json.dumps(status, indent=1)}\n{self.nodes()}"
            time.sleep(1)

    def nodes(self) -> str:
        """Say how the nodes are, and why: one that is down explains most of what does not end."""
        return self.run("sinfo", "--Node", "--Format=NodeList,StateLong,Reason:60", code=None).stdout

    def jobs(self, *more: str) -> list[str]:
        """List `squeue` lines: name|task, one a task."""
        done = self.run("squeue", "--noheader", "--array", "--format=%j|%K|%A|%T", *more)
        return sorted(done.stdout.split())

    def cancel_all(self) -> None:
        """Cancel what a test left and wait until the nodes are free again."""
        self.run(
            "scancel",
            "--user=root" if os.getuid() == 0 else f"--user={os.environ.get('USER', '')}",
            "--quiet",
            code=None,
        )
        end = time.monotonic() + 60
        while self.jobs() and time.monotonic() < end:
            time.sleep(0.3)


@contextlib.contextmanager
def _started(nodes: int) -> Iterator[Slurm]:
    check = subprocess.run([sys.executable, str(SCRIPT), "check"], capture_output=True, text=True, timeout=60)
    if check.returncode != 0:
        reason = f"no real Slurm here: {(check.stdout + check.stderr).strip()}"
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    # Unix sockets allow 107 bytes: pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="hpt-", dir="/tmp"))
    cluster = Slurm(folder)
    cluster.script("up", "--nodes", str(nodes), "--cpus", "4", timeout=90)
    try:
        yield cluster
    finally:
        cluster.script("down", timeout=90)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[Slurm]:
    with _started(nodes=4) as cluster:
        yield cluster


@pytest.fixture
def slurm_of_eight() -> Iterator[Slurm]:
    """A cluster of eight nodes for one test alone."""
    with _started(nodes=8) as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_session: Slurm) -> Iterator[Slurm]:
    """The cluster, empty before and after."""
    yield slurm_session
    slurm_session.cancel_all()


@pytest.fixture
def counted(tmp_path: Path) -> Callable[[], dict[str, int]]:
    """Put wrappers of sbatch, squeue and sacct on PATH; return a function that says how often each was called."""
    folder, log = tmp_path / "wrappers", tmp_path / "calls"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct"):
        real = shutil.which(name)
        wrapper = folder / name
        wrapper.write_text(f'#!/bin/sh\n[ "$1" = --test-only ] || echo {name} >>"{log}"\nexec {real} "$@"\n')
        wrapper.chmod(0o755)

    def calls() -> dict[str, int]:
        lines = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return {name: lines.count(name) for name in ("sbatch", "squeue", "sacct")}

    calls.path = f"{folder}{os.pathsep}{os.environ['PATH']}"  # type: ignore[attr-defined]
    return calls
