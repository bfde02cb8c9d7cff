"""Every trap is planted once and found by its name; a sound study has none of them."""

import math
from dataclasses import replace

import msgspec
import pytest
from records_oracle import Oracle, Truth, change_record

from hpcpar.analysis.collect import collect
from hpcpar.analysis.text.summary import summary
from hpcpar.records import Cause, Step
from hpcpar.storage import write_file

SOUND = Oracle(truths={"ddp": Truth(0.010, 0.0020)}, nodes=(1, 2, 4, 8), repeats=4, noise=0.01, steps=120)
TWO = replace(SOUND, truths={"ddp": Truth(0.010, 0.0020), "pp": Truth(0.010, 0.0020)})


def findings(path, **options):
    return {one.name: one for one in collect([path], **options).lint}


def test_a_sound_study_is_in_no_trap(tmp_path):
    SOUND.write(tmp_path)

    assert collect([tmp_path]).lint == ()


def test_two_strategies_on_one_baseline_are_in_no_trap(tmp_path):
    TWO.write(tmp_path)

    assert list(findings(tmp_path)) == ["different-baselines"]
    assert collect([tmp_path], baseline="ddp@1").lint == ()


def plant_times(run, times):
    lines = [
        Step(step=n, time_s=t, time_min_s=t, time_mean_s=t, slowest=0, loss=1.0, weight=1.0)
        for n, t in enumerate(times, start=1)
    ]
    write_file(run.steps_path(run.record().attempt), b"\n".join(map(msgspec.json.encode, lines)) + b"\n")


def everyone(runs, **changes):
    for run in runs:
        change_record(run, **changes)


def on(runs, **wanted):
    return [run for run in runs if all(getattr(run.spec().identity, name) == value for name, value in wanted.items())]


PLANTED = {
    "super-linear": (SOUND, lambda runs: [plant_times(run, [0.001] * 120) for run in on(runs, nodes=8)]),
    "baseline-missing": (
        replace(SOUND, failures={("ddp", n, r): Cause.TIMEOUT for n in SOUND.nodes for r in range(1, 5)}),
        None,
    ),
    "slow-baseline": (replace(TWO, truths={"ddp": Truth(0.01, 0.002), "pp": Truth(0.05, 0.002)}), None),
    "one-repeat": (replace(SOUND, repeats=2), None),
    "few-sizes": (replace(SOUND, nodes=(1, 2, 4)), None),
    "mixed-conditions": (SOUND, lambda runs: change_record(runs[0], versions={"hpcpar": "0.0.9"})),
    "different-hardware": (
        SOUND,
        lambda runs: change_record(runs[0], ranks=[weaker(r) for r in runs[0].record().ranks]),
    ),
    "oversubscribed": (replace(SOUND, oversubscribed_from=8), None),
    "one-machine": (replace(SOUND, one_machine=True), None),
    "baseline-drift": (SOUND, lambda runs: plant_times(last(on(runs, nodes=1)), [0.09] * 120)),
    "losses-differ": (TWO, lambda runs: everyone(on(runs, strategy="pp"), loss_last=1.1 * 4 / 120)),
    "loss-diverged": (SOUND, lambda runs: change_record(runs[0], loss_last=None)),
    "mock-data": (SOUND, lambda runs: everyone(runs, data={"name": "noise", "synthetic": True})),
    "stalls": (SOUND, lambda runs: plant_times(runs[0], [0.074] * 100 + [0.074, 0.74] * 10)),
    "not-steady": (SOUND, lambda runs: plant_times(runs[0], [0.074 * (1 + n / 2000) for n in range(120)])),
    "short-window": (replace(SOUND, steps=60), None),
    "survivors": (replace(SOUND, failures={("ddp", 8, 1): Cause.OOM_HOST}), None),
}


def weaker(rank):
    rank.usable_cpus = 8
    return rank


def last(runs):
    return max(runs, key=lambda run: run.record().started)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_trap_is_found(tmp_path, name):
    oracle, change = PLANTED[name]
    runs = oracle.write(tmp_path)
    if change is not None:
        change(runs)

    found = findings(tmp_path)

    assert name in found
    assert found[name].where
    assert found[name].what
    assert found[name].fix


def test_runs_that_are_done_and_too_short_did_not_fail(tmp_path):
    replace(SOUND, failures={("ddp", 8, 1): Cause.OOM_HOST}).write(tmp_path)

    results = collect([tmp_path], warmup_steps=200)

    (found,) = [one for one in results.lint if one.name == "survivors"]
    assert found.where.endswith("ddp on 8 nodes")
    assert found.what == "1 of 4 runs failed"
    assert summary(results)[0].text == "16 runs of 16 without a result: 15 with too few steps, 1 oom_host."


def test_a_weak_load_that_is_not_constant_is_found(tmp_path):
    weak = replace(SOUND, scaling="weak")
    weak.write(tmp_path)
    assert "weak-load" not in findings(tmp_path)

    for run in on(weak.write(tmp_path / "bad"), nodes=8):
        spec = run.spec()
        identity = msgspec.structs.replace(spec.identity, global_batch=spec.identity.global_batch // 2)
        run.write_spec(msgspec.structs.replace(spec, identity=identity))

    assert findings(tmp_path / "bad")["weak-load"].what.startswith(
        "weak load not constant: 16 a rank, the baseline has 32"
    )


def test_throughput_alone_is_said_where_batches_grow_unless_a_target_loss_is_given(tmp_path):
    replace(SOUND, scaling="weak").write(tmp_path)

    assert "global batches of 64 to 512" in findings(tmp_path)["throughput-only"].what
    assert "throughput-only" not in findings(tmp_path, target_loss=0.1)


def test_ladders_that_disagree_at_their_common_point_are_found(tmp_path):
    SOUND.write(tmp_path / "a")
    replace(SOUND, scaling="weak", study="weak", begun_s=1.8e9).write(tmp_path / "a")
    assert "ladders-disagree" not in findings(tmp_path / "a")

    slower = {"ddp": Truth(0.012, 0.0024)}
    SOUND.write(tmp_path / "b")
    replace(SOUND, scaling="weak", study="weak", begun_s=1.8e9, truths=slower).write(tmp_path / "b")

    found = findings(tmp_path / "b")["ladders-disagree"]
    assert found.where == "clockwork, ddp on 1 node"
    assert found.what.startswith("the weak ladder's step time is 1.2")


def test_what_only_sleeps_may_play_many_nodes_on_one_machine(tmp_path):
    for run in replace(SOUND, one_machine=True).write(tmp_path):
        run.write_spec(msgspec.structs.replace(run.spec(), uses_cpu=False))

    assert collect([tmp_path]).lint == ()


def test_every_name_has_its_line_in_the_manual():
    from pathlib import Path

    manual = (Path(__file__).parents[2] / "docs" / "lint.md").read_text()
    extra = {
        "weak-load",
        "shared-machine",
        "waits-for-data",
        "different-baselines",
        "throughput-only",
        "ladders-disagree",
    }
    for name in {*PLANTED, *extra}:
        assert f"| `{name}` |" in manual, name


def test_the_worst_comes_first(tmp_path):
    replace(TWO, nodes=(1, 2), oversubscribed_from=2).write(tmp_path)

    severities = [one.severity for one in collect([tmp_path]).lint]

    assert severities == sorted(severities, key=["invalid", "weak", "note"].index)
    assert math.prod(severities.count(one) for one in ("invalid", "weak", "note")) > 0
