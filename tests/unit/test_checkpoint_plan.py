"""What a study and a profile say about checkpoints, in the plan, in the job script and under a real bash."""

import subprocess

import pytest
from test_plan import identities, plan, problems, profile
from test_render import script

from hpcpar.outcome import CHECKPOINTED_CODE
from hpcpar.spec import Checkpointing


def resources(cluster=None, **values):
    (only,) = {run.resources for run in plan(cluster, **values).runs}
    return only


def test_without_a_word_there_are_none():
    got = resources()

    assert (got.checkpoint, got.signal_s, got.requeue) == (None, 0, False)
    text = script()
    assert not any(word in text for word in ("CHECKPOINT", "--signal", "stopped", "scontrol"))


def test_checkpoints_change_no_key():
    with_them = plan(checkpoint={"every": 5})

    assert [one.key() for one in identities(with_them)] == [one.key() for one in identities(plan())]


def test_asked_for_they_come_every_so_often_and_before_the_time_limit():
    got = resources(checkpoint={"every": 5, "keep": 3}, time="1h")

    assert got.checkpoint == Checkpointing(every=5, keep=3)
    assert (got.signal_s, got.requeue) == (90, False)
    assert resources(checkpoint={}, time="2m").signal_s == 30  # a quarter of a short limit
    assert resources(checkpoint={"before_limit": "5m"}, time="1h").signal_s == 300
    local = resources(profile(scheduler="local"), checkpoint={"every": 5, "requeue": True})
    assert (local.checkpoint, local.signal_s, local.requeue) == (Checkpointing(every=5), 0, False)


def test_where_jobs_are_requeued_runs_save_before_the_time_limit_unless_they_cannot():
    got = resources(profile(requeue=True))
    assert (got.checkpoint, got.signal_s, got.requeue) == (Checkpointing(), 90, True)
    for strategy in ("localsgd", "async"):
        got = resources(profile(requeue=True), strategies=[strategy])
        assert (got.checkpoint, got.signal_s, got.requeue) == (None, 0, True)
    got = resources(profile(requeue=True), checkpoint={"every": 2, "requeue": False})
    assert (got.checkpoint, got.requeue) == (Checkpointing(every=2), False)


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ("localsgd", "its replicas differ between two meetings"),
        ("async", "its gradients are on their way at any time"),
    ],
)
def test_strategies_without_checkpoints_are_refused_by_name(strategy, reason):
    (only,) = problems(strategies=[strategy, "ddp"], checkpoint={"every": 5})

    assert f"strategy {strategy} on 1 node x 2 ranks: cannot be checkpointed: {reason}" in only
    assert "leave `checkpoint` out" in only


def test_a_limit_that_leaves_no_time_is_refused():
    (only,) = problems(checkpoint={"before_limit": "10m"}, time="10m")

    assert "before_limit of 600 s is not less than the time limit of 600 s" in only


def test_the_script_says_it_all():
    text = script(checkpoint={"every": 5, "keep": 3, "requeue": True}, time="1h")

    for line in (
        "#SBATCH --signal=USR1@90",
        "#SBATCH --requeue",
        "export HPCPAR_CHECKPOINT_EVERY=5",
        "export HPCPAR_CHECKPOINT_KEEP=3",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("requeue", [True, False])
@pytest.mark.parametrize("stopped", [True, False])
def test_a_run_that_left_early_goes_back_into_the_queue_where_that_was_asked_for(tmp_path, requeue, stopped):
    text = script(root=str(tmp_path), checkpoint={"requeue": requeue}, nodes=[1])
    tools = tmp_path / "tools"
    tools.mkdir()
    word = 'touch "$run_folder/stopped.$HPCPAR_ATTEMPT"' if stopped else "true"
    # srun is a function, so that it sees what the script knows.
    (tmp_path / "job.sh").write_text(f"srun() {{ {word}; }}\n" + text)
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\n')
    (tools / "scontrol").chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "3"}
    done = subprocess.run(["bash", str(tmp_path / "job.sh")], env=environment, capture_output=True, timeout=60)

    assert done.returncode == (CHECKPOINTED_CODE if stopped else 0), done.stderr
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert asked == ("requeue 12\n" if stopped and requeue else "")
    (events,) = tmp_path.glob("s/*/events.12.3.jsonl")
    assert f'"code":{done.returncode}' in events.read_text()


@pytest.mark.parametrize(
    ("workload", "strategy", "reason"),
    [
        ("xgboost", "single", "trees are not in a checkpoint yet"),
        ("xgboost", "xgb-collective", "trees are not in a checkpoint yet"),
        ("estimator", "threads", "every step is a fit of its own, of which nothing is kept"),
    ],
)
def test_trees_and_fits_are_refused_checkpoints_and_run_without_where_jobs_are_requeued(workload, strategy, reason):
    shape = {"workload": workload, "strategies": [strategy], "nodes": [1], "ranks_per_node": 1}
    (text,) = problems(**shape, checkpoint={"every": 5})
    assert f"cannot be checkpointed: {reason}" in text
    got = resources(profile(requeue=True), **shape)
    assert (got.checkpoint, got.signal_s) == (None, 0)
