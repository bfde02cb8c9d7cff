"""Programs of the user's own, without starting any: words, what the plan says, what is made of their logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.cli import main
from hpcpar.worker.program.words import PLACEHOLDERS, filled, placeholders

VALUES = {name: number for number, name in enumerate(PLACEHOLDERS)}


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("{global_batch}", "0"),
        ("--batch={micro_batch},{steps}", "--batch=1,3"),
        ("{{steps}}", "{steps}"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("{}", "{}"),
        ("$(x)`y`;{ steps }", "$(x)`y`;{ steps }"),
    ],
)
def test_placeholders_become_numbers_and_nothing_else_changes(word: str, becomes: str) -> None:
    assert filled([word], VALUES) == [becomes]


@given(st.text(alphabet="ab{}$ \"'", max_size=20))
def test_a_word_without_names_in_braces_stays_as_it_is(word: str) -> None:
    if not placeholders([word]) and "{{" not in word:
        assert filled([word], VALUES) == [word]


def _dry(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["submit", "--cluster", "local", "--nodes", "2", "--dry-run", "--json", *words])
    answer = capsys.readouterr()
    return code, answer.out, answer.err


@pytest.mark.parametrize(
    ("words", "scaling", "steps"),
    [
        (["--", "./train", "{micro_batch}", "{steps}"], "strong", True),
        (["--scaling", "weak", "--", "./train", "{global_batch}"], "weak", False),
        (["--", "./train", "--nodes", "7"], "undeclared", False),
        (["--set", "reads_variables=true", "--", "./train"], "strong", True),
    ],
)
def test_scaling_is_declared_by_what_the_program_takes(
    capsys: pytest.CaptureFixture[str], words: list[str], scaling: str, steps: bool
) -> None:
    code, out, err = _dry(capsys, *words)
    assert code == 0, err
    (spec,) = [run for batch in json.loads(out)["batches"] for run in batch["runs"]]
    assert (spec["scaling"], spec["declares_steps"], spec["folder"]) == (scaling, steps, str(Path.cwd()))
    assert spec["identity"]["strategy"] == "own"
    assert spec["identity"]["workload_options"]["command"] == words[words.index("--") + 1 :]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--", "x", "{micro_bach}"], "{micro_bach}: is no placeholder\n    did you mean 'micro_batch'?"),
        (["--workload", "script"], "workload script: command: is empty\n    write it after --"),
        (["--workload", "mlp", "--", "x"], "--: workload mlp starts no program"),
        (["--", "python", "nowhere.py"], "'nowhere.py': there is no such file"),
        (["--strategy", "ddp", "--", "x"], "strategy ddp: cannot run workload script"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_submitted(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, _, err = _dry(capsys, *words)
    assert code == 2
    assert message in err


LOG = "import hpcpar, sys; hpcpar.log(loss=1, samples=2); print(sorted(m for m in sys.modules if 'json' in m))"


@pytest.mark.parametrize("pipe", ["", "nowhere", "unread"])
def test_log_does_nothing_outside_of_a_job(tmp_path: Path, pipe: str) -> None:
    if pipe == "unread":
        os.mkfifo(tmp_path / pipe)
    environment = {**os.environ, "HPCPAR_LOG": str(tmp_path / pipe) if pipe else ""}
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LOG], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), f"after {time.monotonic() - began} s"
    if not pipe:
        assert done.stdout == "[]\n", "it loads nothing either"
