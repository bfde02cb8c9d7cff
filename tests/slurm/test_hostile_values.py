"""No value becomes a command or a directive: generated scripts, run by real sbatch and the nodes' real bash."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

REASONS = ("holds", "backslash", "percent", "dash", "cannot be started", "cannot write")
DRIVER = Path(__file__).with_name("hostile_scripts.py")


def test_generated_values_arrive_as_they_are_or_are_refused_by_name(slurm: Any, tmp_path: Path) -> None:
    done = slurm.run(sys.executable, str(DRIVER), str(tmp_path), "60", timeout=280)
    *tries, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert last == {"canary": False}, "a value was executed"
    accepted = [one for one in tries if "job" in one]
    refused = [one for one in tries if "refused" in one]
    assert len(accepted) >= 10, "too few examples reached Slurm to prove anything"
    assert len(refused) >= 10
    for one in accepted:
        assert one["arrived"] == one["expected"], one
        assert one["log_exists"], f"the directive --output was misread: {one}"
        assert "TimeLimit=00:01:00" in one["shown"], "a value became a directive"
        assert "Partition=main" in one["shown"]
    for one in refused:
        assert one["written"] == [], f"refused, but something was written: {one}"
        assert any(word in one["refused"] for word in REASONS), one
