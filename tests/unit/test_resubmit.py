"""Sending failed runs again: by hand, by policy; never beside a job that lives. The scheduler is made of stubs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from stub_slurm import StubSlurm, began, failed

from hpcpar.cli import main
from hpcpar.runs import RunFolder

RETRY_NODES = "[policy]\nnode_fail = { retry = 2, exclude_node = true }\n"


@pytest.fixture
def slurm(commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubSlurm:
    monkeypatch.setattr("hpcpar.control.gate.check", lambda *_: [])  # what is installed here is no matter of this
    return StubSlurm(commands, tmp_path)


def job_ids(run: RunFolder) -> list[str]:
    return [line.job_id for line in run.submissions() if line.kind == "submitted"]


def states(slurm: StubSlurm, capsys: Any) -> dict[str, tuple[str, str]]:
    capsys.readouterr()
    main(["status", str(slurm.runs), "--json", "--no-policy"])
    return {row["run"]: (row["state"], row["cause"]) for row in json.loads(capsys.readouterr().out)["rows"]}


# ---------------------------------------------------------------- by hand


def test_only_the_named_causes_are_sent_and_only_once(slurm: StubSlurm, capsys: Any) -> None:
    first, second, third = slurm.submit()
    slurm.ends("1_0", "NODE_FAIL")
    slurm.ends("1_1", "TIMEOUT")
    slurm.holds("1|2|RUNNING")
    assert main(["resubmit", str(slurm.runs), "--cause", "node_fail,oom_host", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"run": first.path.name, "cause": "node_fail"}]
    assert [job_ids(run) for run in (first, second, third)] == [["1_0", "2"], ["1_1"], ["1_2"]]
    assert first.submissions()[-1].reason == "resubmit"
    slurm.holds("1|2|RUNNING", "2|N/A|PENDING")
    assert main(["resubmit", str(slurm.runs)]) == 0
    assert main(["resubmit", str(slurm.runs)]) == 0, "what was just sent is submitted or queued"
    assert [job_ids(run) for run in (first, second, third)] == [["1_0", "2"], ["1_1", "3"], ["1_2"]]


def test_a_dry_run_sends_nothing(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(repeats=1)
    slurm.ends("1", "TIMEOUT")
    assert main(["resubmit", run.path.name[:6], "--dry-run"]) == 0
    assert "1 run would be sent again" in capsys.readouterr().err
    assert job_ids(run) == ["1"]


def test_a_cancelled_run_is_sent_only_when_it_is_named(slurm: StubSlurm) -> None:
    (run,) = slurm.submit(repeats=1)
    slurm.ends("1", "CANCELLED by 0")
    assert main(["resubmit", str(slurm.runs)]) == 0
    assert job_ids(run) == ["1"]
    assert main(["resubmit", str(slurm.runs), "--cause", "cancelled"]) == 0
    assert job_ids(run) == ["1", "2"]


def test_a_job_that_was_requeued_after_its_end_is_not_doubled(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(repeats=1)
    slurm.ends("1", "NODE_FAIL")
    assert states(slurm, capsys)[run.path.name] == ("failed", "node_fail")
    slurm.holds("1|N/A|PENDING")  # somebody said `scontrol requeue 1`
    assert main(["resubmit", str(slurm.runs)]) == 0
    assert job_ids(run) == ["1"]


def test_where_the_scheduler_does_not_answer_nothing_is_sent(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(repeats=1)
    began(run, "1.0", "n1")
    failed(run, "1.0", "network", "n1", echo=True)
    slurm.commands.write("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert main(["resubmit", str(slurm.runs)]) == 1
    assert "nothing is sent again while nobody knows what lives" in capsys.readouterr().err
    assert job_ids(run) == ["1"]


def test_another_time_limit_is_in_the_script(slurm: StubSlurm) -> None:
    slurm.submit(repeats=1)
    slurm.ends("1", "TIMEOUT")
    assert main(["resubmit", str(slurm.runs), "--time", "33m"]) == 0
    assert "#SBATCH --time=00:33:00" in slurm.study.batches()[-1].script_path.read_text()


def test_a_wrong_cause_is_told_with_the_nearest(slurm: StubSlurm, capsys: Any) -> None:
    slurm.submit(repeats=1)
    capsys.readouterr()
    assert main(["resubmit", str(slurm.runs), "--cause", "oom_hots,timeout"]) == 2
    assert "--cause 'oom_hots': is no cause\n    did you mean 'oom_host'?" in capsys.readouterr().err


def test_what_was_sent_unchecked_is_sent_again_unchecked(slurm: StubSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = slurm.submit(repeats=1, flags=["--no-gate"])
    slurm.ends("1", "TIMEOUT")
    monkeypatch.setattr("hpcpar.control.gate.check", lambda *_: 1 / 0)
    assert main(["resubmit", str(slurm.runs)]) == 0
    assert [line.gate for line in run.submissions() if line.kind == "submitted"] == ["skipped", "skipped"]


def test_runs_that_nothing_plans_are_told(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(repeats=1)
    slurm.ends("1", "TIMEOUT")
    slurm.study.requests_path.unlink()
    capsys.readouterr()
    assert main(["resubmit", str(slurm.runs)]) == 2
    assert f"no request of this study plans {run.path.name}" in capsys.readouterr().err


def test_two_at_a_time_do_not_both_send(slurm: StubSlurm) -> None:
    from hpcpar.control.again import resubmit
    from hpcpar.control.submit import submit
    from hpcpar.errors import InputError

    runs = slurm.submit(repeats=2)
    slurm.ends("1_0", "TIMEOUT")
    slurm.ends("1_1", "NODE_FAIL")
    both, _ = resubmit.look(runs)
    (all_of_them,) = resubmit.prepare_again(both, {})
    (one_of_them,) = resubmit.prepare_again(both[:1], {})
    submit(all_of_them)
    with pytest.raises(InputError, match="other runs of this study were submitted in this moment"):
        submit(one_of_them)
    assert [job_ids(run) for run in runs] == [["1_0", "2_0"], ["1_1", "2_1"]]


# ---------------------------------------------------------------- by policy


def test_a_policy_sends_again_counts_and_gives_up(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(RETRY_NODES, repeats=1)
    for job in ("1", "2", "3"):
        began(run, f"{job}.0", "n1", "n2")
        slurm.ends(job, "NODE_FAIL")
        main(["status", str(slurm.runs)])
    assert "sent again, policy: node_fail (2 of 2), without n2" in capsys.readouterr().err
    assert job_ids(run) == ["1", "2", "3"]
    assert [line.excluded for line in run.submissions() if line.kind == "submitted"] == [(), ("n2",), ("n2",)]
    assert "#SBATCH --exclude=n2" in slurm.study.batches()[-1].script_path.read_text()
    assert states(slurm, capsys)[run.path.name] == ("failed", "node_fail"), "it was given up"
    assert main(["resubmit", str(slurm.runs)]) == 0
    slurm.ends("4", "NODE_FAIL")
    main(["status", str(slurm.runs)])
    assert job_ids(run) == ["1", "2", "3", "4", "5"], "a person's word begins the count anew"


def test_the_node_that_told_the_cause_is_excluded(slurm: StubSlurm) -> None:
    (run,) = slurm.submit("[policy]\nnetwork = { retry = 1, exclude_node = true }\n", repeats=1)
    began(run, "1.0", "n1", "n4")
    failed(run, "1.0", "network", "n4")
    slurm.ends("1", "FAILED")
    main(["status", str(slurm.runs)])
    assert [line.excluded for line in run.submissions() if line.kind == "submitted"] == [(), ("n4",)]


def test_without_a_policy_or_for_another_cause_status_only_looks(slurm: StubSlurm) -> None:
    (run,) = slurm.submit(RETRY_NODES, repeats=1)
    slurm.ends("1", "TIMEOUT")
    slurm.forget_calls()
    assert main(["status", str(slurm.runs)]) == 1
    assert job_ids(run) == ["1"]
    assert {name: slurm.calls(name) for name in ("squeue", "sacct", "sbatch")} == {"squeue": 1, "sacct": 1, "sbatch": 0}


def test_no_policy_only_looks(slurm: StubSlurm) -> None:
    (run,) = slurm.submit(RETRY_NODES, repeats=1)
    slurm.ends("1", "NODE_FAIL")
    assert main(["status", str(slurm.runs), "--no-policy"]) == 1
    assert job_ids(run) == ["1"]


def test_a_policy_can_be_given_later_by_submitting_the_study_again(slurm: StubSlurm) -> None:
    (run,) = slurm.submit(repeats=1)
    slurm.holds("1|N/A|RUNNING")
    assert slurm.submit("[policy]\ntimeout = { retry = 1 }\n", repeats=1)
    assert job_ids(run) == ["1"]
    slurm.holds()
    slurm.ends("1", "TIMEOUT")
    main(["status", str(slurm.runs)])
    assert job_ids(run) == ["1", "2"]


def test_every_mistake_in_a_policy_is_told_at_once(slurm: StubSlurm, capsys: Any) -> None:
    bad = '[policy]\nhang_after = "soon"\nnode_fial = { retry = 1 }\ntimeout = { retry = -1, again = 2 }\n'
    with pytest.raises(AssertionError):
        slurm.submit(bad)
    said = capsys.readouterr().err
    assert "policy.node_fial: unknown key\n    did you mean 'node_fail'?" in said
    assert "policy.timeout.retry" in said
    assert "policy.timeout.again: unknown key" in said


def test_only_what_the_scheduler_can_requeue_is_requeued(slurm: StubSlurm, capsys: Any) -> None:
    with pytest.raises(AssertionError):
        slurm.submit("[policy]\ntimeout = { requeue = true }\n")
    assert "timeout: the scheduler requeues by itself after node_fail and preempted only" in capsys.readouterr().err
    slurm.submit('[policy]\nhang_after = "90s"\npreempted = { requeue = true }\n', repeats=1)
    script = slurm.study.batches()[0].script_path.read_text()
    assert "#SBATCH --requeue\n" in script
    assert "export HPCPAR_HANG_AFTER_S=90\n" in script
    assert "scontrol requeue" not in script, "it says nothing of time limits"


# ---------------------------------------------------------------- status


def test_what_waits_says_when_it_may_start_and_what_runs_how_long_it_takes(slurm: StubSlurm, capsys: Any) -> None:
    from hpcpar import records
    from hpcpar.records import Step

    _, running, _ = slurm.submit()
    began(running, "1_1.0", "n1")
    for n in range(1, 11):
        step = Step(step=n, time_s=0.5, time_min_s=0.5, time_mean_s=0.5, slowest=0, data_s=0.5)
        records.append(running.steps_path("1_1.0"), step)
    slurm.queue.write_text(
        "1|0|PENDING|0:00|2099-01-02T03:04:05|(Resources)|n|\n1|1|RUNNING|0:09|2026-01-01T00:00:00|n1|n|n1\n"
        "1|2|PENDING|0:00|N/A|(Priority)|n|\n"
    )
    main(["status", str(slurm.runs), "--json"])
    rows = {row["job_id"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    spec = running.spec()
    assert spec is not None
    assert rows["1_1"]["left_s"] == pytest.approx(spec.identity.steps - 10)
    assert rows["1_1"]["starts"] is None
    assert rows["1_0"]["starts"] > 4e9
    assert rows["1_2"]["starts"] is None
    main(["status", str(slurm.runs)])
    said = capsys.readouterr().out
    assert "it is next, and waits for nodes to become free (Resources); may start 2099-01-02 03:04" in said


def test_failures_are_counted_by_cause(slurm: StubSlurm, capsys: Any) -> None:
    slurm.submit()
    slurm.ends("1_0", "NODE_FAIL")
    slurm.ends("1_1", "NODE_FAIL")
    slurm.ends("1_2", "TIMEOUT")
    capsys.readouterr()
    assert main(["status", str(slurm.runs)]) == 1
    assert "3 runs: 3 failed (2 node_fail, 1 timeout)" in capsys.readouterr().out


# ---------------------------------------------------------------- the user's own code


@pytest.fixture
def program(slurm: StubSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of the user's own, sent once, failed, and edited since."""
    file = tmp_path / "code" / "train.py"
    file.parent.mkdir()
    monkeypatch.chdir(file.parent)
    file.write_text("print('first')")
    send_program(slurm)
    slurm.ends("1", "NODE_FAIL")
    file.write_text("print('edited')")
    return file


def send_program(slurm: StubSlurm, *more: str) -> None:
    words = ("submit", "--cluster", "slurm-test", "--name", "s", "--ranks-per-node", "1", "--runs", str(slurm.runs))
    assert main([*words, *more, "--", "python", "train.py"]) == 0


def codes(slurm: StubSlurm) -> dict[str, str]:
    """What each script runs: the text of its snapshot's program."""
    found = {}
    for batch in slurm.study.batches():
        (line,) = [line for line in batch.script_path.read_text().splitlines() if "HPCPAR_CODE=" in line]
        found[str(batch.read().accepted.job_id)] = (Path(line.partition("=")[2]) / "train.py").read_text()
    return found


def test_what_is_sent_again_runs_the_code_that_was_sent_first(slurm: StubSlurm, program: Path) -> None:
    assert main(["resubmit", str(slurm.runs)]) == 0
    assert codes(slurm) == {"1": "print('first')", "2": "print('first')"}
    slurm.ends("2", "NODE_FAIL")
    assert main(["resubmit", str(slurm.runs), "--new-code"]) == 0
    assert codes(slurm)["3"] == "print('edited')"
    (run,) = slurm.study.runs()
    first, second, third = [line.code_sha256 for line in run.submissions() if line.kind == "submitted"]
    assert first == second != third


def test_runs_of_different_code_are_sent_again_together_each_with_its_own(
    slurm: StubSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.py"
    monkeypatch.chdir(tmp_path)
    file.write_text("print('first')")
    send_program(slurm)
    slurm.holds("1|N/A|RUNNING")
    file.write_text("print('edited')")
    send_program(slurm, "--repeats", "2")  # the second run only: the first one is under way
    slurm.holds()
    slurm.ends("1", "NODE_FAIL")
    slurm.ends("2", "NODE_FAIL")
    file.write_text("print('third')")
    assert main(["resubmit", str(slurm.runs)]) == 0
    found = codes(slurm)
    assert (found["1"], found["2"]) == ("print('first')", "print('edited')")
    assert sorted((found["3"], found["4"])) == ["print('edited')", "print('first')"]


@pytest.mark.parametrize("harm", ["gone", "edited"])
def test_code_that_is_not_there_any_more_is_said_and_nothing_sent(
    slurm: StubSlurm, program: Path, capsys: Any, harm: str
) -> None:
    (copy,) = (slurm.study.path / "code").iterdir()
    if harm == "gone":
        (copy / "train.py").unlink()
        copy.rmdir()
    else:
        (copy / "train.py").write_text("import os")
    assert main(["resubmit", str(slurm.runs)]) == 2
    said = capsys.readouterr().err
    assert ("is gone" if harm == "gone" else "is not what it was when the run was sent") in said
    assert "--new-code" in said
    assert set(codes(slurm) if harm == "edited" else {"1": ""}) == {"1"}


def test_a_runs_folder_under_another_name_is_the_same_place(slurm: StubSlurm, tmp_path: Path) -> None:
    slurm.submit(repeats=1)
    slurm.ends("1", "NODE_FAIL")
    (tmp_path / "link").symlink_to(slurm.runs)
    assert main(["resubmit", str(tmp_path / "link")]) == 0
    assert len(slurm.study.batches()) == 2


def test_a_study_that_was_copied_elsewhere_is_not_sent_from_there(
    slurm: StubSlurm, tmp_path: Path, capsys: Any
) -> None:
    slurm.submit(RETRY_NODES, repeats=1)
    slurm.ends("1", "NODE_FAIL")
    shutil.copytree(slurm.runs, tmp_path / "copy")
    assert main(["resubmit", str(tmp_path / "copy")]) == 2
    assert "was not submitted by you at this place" in capsys.readouterr().err
    slurm.forget_calls()
    assert main(["status", str(tmp_path / "copy")]) == 1
    assert slurm.calls("sbatch") == 0, "nor by its policy"
