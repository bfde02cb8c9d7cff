"""`submit --paired`: runs of one size and repeat share a job, on the same nodes, in an order that is drawn."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stub_slurm import StubSlurm, began, failed

from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.cli import main
from hpcpar.control.again import rerun
from hpcpar.control.reconcile import reconcile
from hpcpar.outcome import decide
from hpcpar.records import Cause, RunRecord
from hpcpar.runs import RunFolder

STUDY = """
name = "s"
cluster = "slurm-test"
workload = "llama-tiny"
strategies = ["ddp", "fsdp", "pp"]
nodes = [1, 2]
repeats = 3
time = "10m"
paired = true
{more}
"""


@pytest.fixture
def slurm(commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubSlurm:
    monkeypatch.setattr("hpcpar.control.gate.check", lambda *_: [])  # what is installed here is no matter of this
    return StubSlurm(commands, tmp_path)


def send(slurm: StubSlurm, more: str = "", *flags: str) -> int:
    path = slurm.place / "s.toml"
    path.write_text(STUDY.format(more=more))
    return main(["submit", str(path), "--runs", str(slurm.runs), *flags])


def jobs(slurm: StubSlurm) -> dict[str, list[RunFolder]]:
    """The runs of each job, in the order of their array."""
    found: dict[str, list[RunFolder]] = {}
    for batch in slurm.study.batches():
        manifest = batch.read()
        for index in sorted(manifest.runs):
            run = slurm.study.run(manifest.runs[index])
            found.setdefault(run.submissions()[-1].job_id, []).append(run)
    return found


def finish(run: RunFolder, attempt: str) -> None:
    spec = run.spec()
    assert spec is not None
    record = RunRecord(
        key=spec.key,
        study=spec.study,
        attempt=attempt,
        job_id=attempt.rpartition(".")[0],
        cause=Cause.OK,
        started=1.0,
        ended=2.0,
        steps=spec.identity.steps,
        phases={},
        loss_first=1.0,
        loss_last=1.0,
        ranks=[],
        oversubscribed=False,
    )
    run.record_path.write_bytes(msgspec.json.encode(record))


def state(run: RunFolder) -> tuple[str, str]:
    knowledge = reconcile([StubStudy(run)])
    outcome = decide(run, knowledge.live.get(run.path))
    return outcome.state, outcome.message


def StubStudy(run: RunFolder) -> Any:
    from hpcpar.runs import StudyFolder

    return StudyFolder(run.path.parent)


def test_every_job_has_each_strategy_once_in_an_order_that_is_drawn_and_recorded(slurm: StubSlurm) -> None:
    assert send(slurm) == 0
    found = jobs(slurm)
    assert sorted(found) == ["1_0", "1_1", "1_2", "2_0", "2_1", "2_2"]
    orders = []
    for runs in found.values():
        specs = [spec for run in runs if (spec := run.spec()) is not None]
        assert sorted(spec.identity.strategy for spec in specs) == ["ddp", "fsdp", "pp"]
        assert len({(spec.identity.nodes, spec.identity.repeat, spec.pair) for spec in specs}) == 1
        assert [spec.order for spec in specs] == sorted(spec.order for spec in specs), "it is the recorded one"
        orders.append(tuple(spec.identity.strategy for spec in specs))
    assert len(set(orders)) > 1, "it is drawn anew for every size and repeat"
    assert len({runs[0].spec().pair for runs in found.values()}) == 6  # type: ignore[union-attr]


def test_the_order_is_the_same_at_every_planning_and_another_with_another_seed(slurm: StubSlurm, capsys: Any) -> None:
    def order(*flags: str) -> list[tuple[str, int]]:
        capsys.readouterr()
        assert send(slurm, "", "--dry-run", "--json", *flags) == 0
        batches = json.loads(capsys.readouterr().out)["batches"]
        return [(run["identity"]["strategy"], run["order"]) for batch in batches for run in batch["runs"]]

    assert order() == order()
    assert order() != order("--seed", "1")


def test_a_job_asks_for_the_time_of_all_its_runs_and_each_has_its_own_limit(slurm: StubSlurm) -> None:
    send(slurm)
    text = slurm.study.batches()[0].script_path.read_text()
    assert "#SBATCH --time=00:33:00\n" in text, "three times ten minutes and one between"
    assert "#SBATCH --array=0-2\n" in text
    assert "timeout --kill-after=60 600 srun " in text


def test_more_than_the_queue_allows_is_refused_before_anything_is_written(slurm: StubSlurm, capsys: Any) -> None:
    profile = slurm.place / "short.toml"
    shipped = Path(__file__).parents[2] / "clusters" / "slurm-test.toml"
    profile.write_text(shipped.read_text() + '\n[partitions.short]\nlimits = [{ max_time = "30m" }]\n')
    assert send(slurm, "", "--cluster", str(profile), "--partition", "short") == 2
    assert "paired, 3 runs a job" in capsys.readouterr().err
    assert not slurm.runs.exists()


SRUN = """
for word; do case $word in */s/*) run=$word;; esac; done
echo "${run##*/}" >>ORDER
[ ! -e "$run/fails" ] || exit 3
"""


def run_script(slurm: StubSlurm, place: Path, restarts: int = 0) -> tuple[int, list[str]]:
    """Run the first job under bash, with a stub of srun; return its exit code and the runs that were started."""
    order = place / "order"
    order.unlink(missing_ok=True)
    slurm.commands.write("srun", SRUN.replace("ORDER", str(order)))
    for name in ("mkdir", "date", "timeout"):
        slurm.commands.borrow(name)
    variables = {"SLURM_JOB_ID": "1", "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "0"}
    script = slurm.study.batches()[0].script_path
    environment = {**os.environ, **variables, "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run(["/bin/bash", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, order.read_text().split() if order.exists() else []


def test_the_script_runs_them_one_after_the_other_and_a_failure_ends_only_its_own_run(
    slurm: StubSlurm, tmp_path: Path
) -> None:
    send(slurm)
    runs = jobs(slurm)["1_0"]
    (runs[1].path / "fails").touch()
    code, started = run_script(slurm, tmp_path)
    assert (code, started) == (3, [run.path.name for run in runs])
    codes = [run.events("1_0.0").records[-1].data["code"] for run in runs]
    assert codes == [0, 3, 0]


def test_after_a_requeue_what_is_done_is_not_done_again(slurm: StubSlurm, tmp_path: Path) -> None:
    send(slurm)
    first, second, third = jobs(slurm)["1_0"]
    finish(first, "1_0.0")
    finish(third, "0_0.0")  # of an earlier submission: `submit --again`
    os.utime(third.record_path, (1, 1))
    code, started = run_script(slurm, tmp_path, restarts=1)
    assert (code, started) == (0, [second.path.name, third.path.name])


def test_two_starts_that_slurm_counts_as_one_write_into_files_of_their_own(slurm: StubSlurm, tmp_path: Path) -> None:
    send(slurm)
    for _ in range(2):
        run_script(slurm, tmp_path)
    for run in jobs(slurm)["1_0"]:
        assert run.attempts() == ["1_0.0", "1_0.1"]
        assert [len(run.events(name).records) for name in run.attempts()] == [1, 1]


def test_status_tells_whose_turn_it_is(slurm: StubSlurm, capsys: Any) -> None:
    send(slurm, "[policy]\npython_error = { retry = 3 }\n")
    first, second, third = jobs(slurm)["1_0"]
    slurm.holds("1|0|RUNNING")
    finish(first, "1_0.0")
    began(second, "1_0.0", "n1")
    failed(second, "1_0.0", "python_error", "n1")
    assert state(first)[0] == "done"
    assert state(second) == ("failed", "rank 0 on n1: the message")
    assert state(third) == ("queued", "its job runs, and its turn has not come")
    main(["status", str(slurm.runs)])
    assert len(slurm.study.batches()) == 2, "nothing is sent again beside a job that lives"
    slurm.holds("1|0|PENDING")  # requeued: what failed may get another turn
    assert state(second)[0] == "queued"
    slurm.holds("1|0|RUNNING")
    began(third, "1_0.1", "n2")
    assert state(third)[0] == "running"
    assert state(second) == ("queued", "its job runs, and its turn has not come")


def test_a_run_of_a_shared_job_is_not_cancelled_alone(slurm: StubSlurm, capsys: Any) -> None:
    send(slurm)
    runs = jobs(slurm)["1_0"]
    slurm.holds("1|0|RUNNING")
    slurm.commands.write("scancel", f"echo $* >>{slurm.place}/cancelled")
    finish(runs[0], "1_0.0")
    assert main(["cancel", str(runs[1].path)]) == 2
    assert f"shares its job with other runs\n    name them too: {runs[2].path.name}" in capsys.readouterr().err
    assert not (slurm.place / "cancelled").exists()
    assert main(["cancel", str(runs[1].path), str(runs[2].path)]) == 0
    assert (slurm.place / "cancelled").read_text() == "--quiet 1_[0,0]\n"


def test_the_script_of_a_shared_job_is_made_again_to_the_byte(slurm: StubSlurm) -> None:
    send(slurm)
    run = jobs(slurm)["2_1"][1]
    assert [text for text in rerun.compare(run).differences if "job.sh" in text] == []


def test_only_runs_of_one_job_are_a_pair(slurm: StubSlurm) -> None:
    send(slurm)
    first, second, third = jobs(slurm)["1_0"]
    finish(first, "1_0.0")
    finish(second, "1_0.0")
    finish(third, "7.0")  # sent again alone, after its job
    words = [reduce_run(run).pair for run in (first, second, third)]
    assert words[0] == words[1] != words[2]


def test_a_run_that_is_sent_again_alone_has_a_job_of_its_own(slurm: StubSlurm) -> None:
    send(slurm)
    runs = jobs(slurm)["1_0"]
    slurm.ends("1_0", "COMPLETED", "0:0")
    for run in (runs[0], runs[2]):
        finish(run, "1_0.0")
    began(runs[1], "1_0.0", "n1")
    failed(runs[1], "1_0.0", "python_error", "n1")
    assert main(["resubmit", str(runs[1].path)]) == 0
    script = slurm.study.batches()[2].script_path.read_text()
    assert "#SBATCH --time=00:10:00\n" in script
    assert "for run_name in" not in script
    assert not runs[1].submissions()[-1].shared


def test_on_this_machine_they_are_drawn_and_run_one_by_one(isolation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcpar.control.local_queue.start", lambda: None)
    words = ["submit", "--cluster", "local", "--name", "s", "--strategy", "ddp", "fsdp", "--repeats", "2", "--paired"]
    assert main(words) == 0
    (study,) = (isolation / "runs").iterdir()
    specs = [run.spec() for run in StubStudy(RunFolder(study / "x")).runs()]
    assert sorted(spec.pair for spec in specs if spec) == ["1x1-r1"] * 2 + ["1x1-r2"] * 2
