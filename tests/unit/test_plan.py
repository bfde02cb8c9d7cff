"""A study and a profile become runs, or the list of everything that is wrong with them."""

import itertools
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcpar.assets import builtin_folder
from hpcpar.control.plan import make_plan
from hpcpar.decode import decode, read_toml
from hpcpar.errors import InputError
from hpcpar.mesh import Mesh
from hpcpar.profile import ClusterProfile
from hpcpar.spec import Identity, Study

NODE = {"ranks_per_node": 2, "cpus_per_rank": 4, "usable_cpus": 16, "num_nodes": 64, "memory": "128GiB"}
PROFILE = {
    "schema": 1,
    "name": "site",
    "description": "a cluster",
    "scheduler": "slurm",
    "default_node_type": "cpu",
    "node_types": {"cpu": NODE},
    "qos": {
        "normal": {"limits": [{"max_nodes": 4, "max_time": "2h"}, {"max_nodes": 16, "max_time": "30m"}]},
        "large": {"limits": [{"max_time": "1h"}], "min_nodes": 8},
    },
}


def profile(*, node=None, **changes):
    """The profile above with other values; `node` changes its only kind of node."""
    return decode(ClusterProfile, {**PROFILE, "node_types": {"cpu": {**NODE, **(node or {})}}, **changes}, "site.toml")


def study(**values):
    return decode(Study, {"workload": "llama-tiny", "repeats": 3, **values}, "study.toml")


def plan(cluster=None, **values):
    return make_plan(study(**values), cluster or profile(), "study.toml")


def problems(cluster=None, **values):
    """What is wrong with a study, one text each."""
    with pytest.raises(InputError) as caught:
        plan(cluster, **values)
    return [str(problem) for problem in caught.value.problems]


def identities(planned):
    return [run.spec.identity for run in planned.runs]


# ---------------------------------------------------------------- sizes

studies = st.fixed_dictionaries(
    {
        "strategies": st.lists(st.sampled_from(["ddp", "pp", "hybrid"]), min_size=1, max_size=3, unique=True),
        "nodes": st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True),
        "ranks_per_node": st.integers(1, 3),
        "global_batch": st.integers(1, 30).map(lambda n: 4 * n),
        "scaling": st.sampled_from(["strong", "weak"]),
        "repeats": st.integers(1, 3),
    },
    optional={"micro_batch": st.integers(1, 4)},
)


def planned_or_none(values):
    try:
        return plan(**values)
    except InputError:
        return None


@settings(max_examples=40)
@given(studies)
def test_the_batch_is_the_product_of_its_parts_in_every_accepted_run(values):
    planned = planned_or_none(values)
    for identity in identities(planned) if planned else []:
        parts = identity.micro_batch * identity.grad_accum * identity.mesh.data_ranks
        assert parts == identity.global_batch


@settings(max_examples=40)
@given(studies)
def test_the_mesh_has_as_many_ranks_as_the_run(values):
    planned = planned_or_none(values)
    for identity in identities(planned) if planned else []:
        assert identity.mesh.world_size == identity.nodes * identity.ranks_per_node


@settings(max_examples=40)
@given(studies.map(lambda values: values | {"scaling": "weak"}))
def test_weak_scaling_keeps_the_batch_a_rank(values):
    planned = planned_or_none(values)
    if planned:
        smallest = min(values["nodes"]) * values["ranks_per_node"]
        shares = {(i.global_batch * smallest, values["global_batch"] * i.world_size) for i in identities(planned)}
        assert all(left == right for left, right in shares)


@settings(max_examples=40)
@given(studies.map(lambda values: values | {"scaling": "strong"}))
def test_strong_scaling_keeps_the_batch(values):
    planned = planned_or_none(values)
    if planned:
        assert {identity.global_batch for identity in identities(planned)} == {values["global_batch"]}


@settings(max_examples=40)
@given(studies)
def test_a_plan_holds_every_strategy_at_every_size_and_repeat_once(values):
    planned = planned_or_none(values)
    if planned:
        cells = [(i.repeat, i.strategy, i.nodes) for i in identities(planned)]
        grid = itertools.product(range(1, values["repeats"] + 1), values["strategies"], values["nodes"])
        assert cells == list(grid)


@settings(max_examples=40)
@given(studies)
def test_no_two_runs_of_a_plan_share_a_folder(values):
    planned = planned_or_none(values)
    if planned:
        names = [run.spec.run_name for run in planned.runs]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"workload": "llama-tiny", "strategies": ["ep"]},
            "cannot run workload llama-tiny (it is of the kind 'neural')",
        ),
        ({"workload": "llama-moe", "strategies": ["localsgd"]}, "(it is of the kind 'mixture-of-experts')"),
        ({"workload": "llama-moe", "strategies": ["ep"], "nodes": [3]}, "choose ep from 1, 2, 4, 8"),
        ({"strategies": [{"name": "hybrid", "mesh": "dp=2,ep=2"}], "nodes": [1]}, "ep: the workload has no experts"),
    ],
)
def test_what_experts_cannot_do_is_said_before_anything_is_submitted(values, words):
    with pytest.raises(InputError, match=re.escape(words)):
        plan(**values)


@pytest.mark.parametrize("strategy", ["localsgd", "async", "deepspeed-zero", "horovod"])
def test_who_cannot_look_at_gradients_refuses_to_skip_those_that_are_not_finite(strategy):
    words = f"strategy {strategy}: cannot look at gradients before they are used, as nonfinite=skip asks"
    with pytest.raises(InputError, match=re.escape(words)):
        plan(strategies=["ddp", strategy], workload_options={"nonfinite": "skip"})


def test_repeats_are_outermost_so_that_a_drifting_machine_spoils_all_cells_alike():
    planned = plan(strategies=["ddp", "pp"], nodes=[1, 2], repeats=2)
    assert [run.spec.order for run in planned.runs] == list(range(8))
    assert [run.spec.identity.repeat for run in planned.runs] == [1] * 4 + [2] * 4


def test_the_warm_up_takes_at_most_half_of_a_short_run():
    planned = plan(steps=9, warmup_steps=10)
    assert {run.spec.warmup_steps for run in planned.runs} == {4}
    assert [str(one).splitlines()[0] for one in planned.warnings] == [
        "warmup_steps: 10 would leave none of 9 steps to time: 4 are cut"
    ]
    assert plan(steps=20, warmup_steps=10).warnings == ()


def test_without_a_declared_warm_up_it_lasts_until_the_step_time_is_steady_and_at_least_ten_steps():
    ruled, declared = plan(steps=100).runs[0].spec, plan(steps=100, warmup_steps=10).runs[0].spec
    assert (ruled.warmup_steps, ruled.until_steady) == (10, True)
    assert (declared.warmup_steps, declared.until_steady) == (10, False)


def test_what_this_machine_takes_no_notice_of_is_said():
    here = profile(scheduler="local")
    said = [str(one).splitlines()[0] for one in plan(here, account="a", qos="normal", memory="1GiB").warnings]
    assert said == ["account, qos, memory: this machine's own queue takes no notice of them"]
    assert plan(here).warnings == ()
    assert plan(account="a", qos="normal", memory="1GiB").warnings == ()


def test_a_quick_look_is_short_and_says_so():
    planned = plan(steps=500, repeats=5, quick=True)
    assert {(run.spec.identity.steps, run.spec.identity.repeat, run.spec.quick) for run in planned.runs} == {
        (30, 1, True)
    }
    assert "quick: a look: at most 30 steps and one repeat" in str(planned.warnings[-1])
    assert {run.spec.identity.steps for run in plan(steps=12, quick=True).runs} == {12}


# ---------------------------------------------------------------- identity


def keys(cluster=None, **values):
    return [run.spec.key for run in plan(cluster, **values).runs]


@pytest.mark.parametrize(
    "outside",
    [
        {"time": "59m"},
        {"account": "m1234"},
        {"memory": "64GiB"},
        {"qos": "normal"},
        {"partition": "main"},
        {"constraint": "fast"},
        {"python": "/opt/python"},
        {"description": "other words"},
        {"warmup_steps": 3},
        {"name": "other"},
    ],
    ids=lambda outside: next(iter(outside)),
)
def test_what_changes_nothing_that_is_computed_changes_no_key(outside):
    assert keys(**outside) == keys()


@pytest.mark.parametrize(
    "inside",
    [
        {"seed": 1},
        {"steps": 7},
        {"global_batch": 64},
        {"micro_batch": 4},
        {"ranks_per_node": 1},
        {"cpus_per_rank": 2},
        {"nodes": [2]},
        {"strategies": ["pp"]},
        {"strategies": [{"name": "ddp", "options": {"bucket_mb": 1.0}}]},
        {"workload": "mlp", "global_batch": 32, "steps": 60},
        {"workload_options": {"lr": 0.5}},
    ],
    ids=str,
)
def test_what_is_computed_is_in_the_key(inside):
    assert not set(keys(**inside)) & set(keys())


def test_another_cluster_is_another_key():
    assert not set(keys(profile(name="elsewhere"))) & set(keys())


def test_another_kind_of_node_is_another_key():
    two = decode(ClusterProfile, {**PROFILE, "node_types": {"cpu": NODE, "big": NODE}}, "site.toml")
    assert not set(keys(two, node_type="big")) & set(keys())


ONE = Identity(
    cluster="c", node_type="n", workload="w", workload_options={"a": 1}, strategy="s", strategy_options={"b": 2},
    mesh=Mesh(dp_replicate=4), nodes=2, ranks_per_node=2, cpus_per_rank=1, micro_batch=2, grad_accum=1, global_batch=8,
    steps=5, seed=0, repeat=1,
)  # fmt: skip


@pytest.mark.parametrize("field", Identity.__struct_fields__)
def test_every_field_of_the_identity_is_in_the_key(field):
    value = getattr(ONE, field)
    other = {int: lambda: value + 1, str: lambda: value + "x", dict: lambda: {**value, "c": 3}, Mesh: Mesh}
    changed = msgspec.structs.replace(ONE, **{field: other[type(value)]()})
    assert changed.key() != ONE.key()


@settings(max_examples=10)
@given(st.permutations(["lr", "layers", "heads", "dim"]))
def test_the_order_of_options_is_not_in_the_key(order):
    options = {"lr": 0.5, "layers": 3, "heads": 4, "dim": 128}
    assert keys(workload_options={name: options[name] for name in order}) == keys(workload_options=options)


def test_a_study_extended_by_nodes_and_repeats_keeps_its_old_runs():
    old = plan(nodes=[1, 2], repeats=2)
    new = plan(nodes=[1, 2, 4], repeats=3)
    assert {run.spec.run_name for run in old.runs} < {run.spec.run_name for run in new.runs}


def test_a_weak_study_extended_upwards_keeps_its_old_runs():
    old = plan(nodes=[1, 2], scaling="weak", global_batch=8)
    new = plan(nodes=[1, 2, 4], scaling="weak", global_batch=8)
    assert {run.spec.run_name for run in old.runs} < {run.spec.run_name for run in new.runs}


def test_the_same_strategy_twice_is_refused_since_both_would_run_in_one_folder():
    (problem,) = problems(strategies=["ddp", "pp", "ddp"])
    assert "ddp" in problem
    assert "twice" in problem


def test_one_strategy_with_two_sets_of_options_is_two_strategies():
    options = [{"name": "ddp", "options": {"bucket_mb": size}} for size in (1.0, 2.0)]
    assert len(plan(strategies=options, repeats=1).runs) == 2


def test_a_node_count_given_twice_for_one_strategy_is_refused():
    (problem,) = problems(strategies=[{"name": "ddp", "nodes": [1, 1]}])
    assert "twice" in problem


# ---------------------------------------------------------------- everything that is wrong, at once


def test_five_planted_mistakes_are_five_problems():
    found = problems(
        node_type="gpu",
        strategies=["dpp", {"name": "ddp", "options": {"bucket": 1}}, {"name": "pp", "mesh": "pp=2"}],
        workload_options={"layer": 3},
    )
    assert len(found) == 5, found


def test_mistakes_of_names_do_not_hide_mistakes_of_sizes():
    found = problems(strategies=["dpp", "ddp"], nodes=[1, 3], qos="nromal", global_batch=32)
    wanted = ["'dpp'", "does not divide over 6 data ranks", "unknown QOS 'nromal'"]
    assert all(any(words in problem for problem in found) for words in wanted), found


def test_limits_are_said_once_a_size_whatever_the_number_of_strategies():
    found = problems(strategies=["ddp", "pp"], nodes=[1], time="5h", qos="normal")
    assert len(found) == 1


@pytest.mark.parametrize(
    ("cluster", "flags", "words"),
    [
        ("frontier", {"nodes": [91], "time": "3h"}, "03:00:00 is longer than partition batch allows (02:00:00)"),
        ("frontier", {"nodes": [92], "time": "3h"}, ""),
        ("frontier", {"nodes": [65], "partition": "extended"}, "partition extended takes jobs of 1 to 64 nodes"),
        ("frontier", {"nodes": [1], "partition": "bach"}, "unknown partition 'bach'\n    did you mean 'batch'"),
        ("leonardo", {"nodes": [64], "qos": "boost_qos_bprod"}, "QOS boost_qos_bprod takes jobs of 65 to 256 nodes"),
        ("marenostrum5", {"nodes": [1], "memory": "100GB"}, "memory must not be asked for on this cluster"),
        ("polaris", {"nodes": [1]}, "is scheduled by PBS"),
    ],
)
def test_limits_of_real_machines(cluster, flags, words):
    site = decode(ClusterProfile, read_toml(builtin_folder("clusters") / f"{cluster}.toml"), cluster)
    ranks = flags["nodes"][0] * site.node_types[site.default_node_type].ranks_per_node
    asked = {"workload": "mlp", "strategies": ["ddp"], "account": "a", "global_batch": ranks, "repeats": 1, **flags}
    if words:
        (found,) = problems(site, **asked)
        assert words in found
    else:
        assert plan(site, **asked).runs


def test_limits_are_checked_although_the_workload_is_not_known():
    found = problems(workload="lama-tiny", qos="nromal")
    assert len(found) == 2, found


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strategies": ["hybird"]}, ["hybird", "did you mean 'hybrid'"]),
        ({"workload": "lama-tiny"}, ["lama-tiny", "did you mean 'llama-tiny'"]),
        ({"qos": "nromal"}, ["nromal", "did you mean 'normal'"]),
        ({"node_type": "cpus"}, ["cpus", "did you mean 'cpu'"]),
        ({"workload_options": {"layerz": 2}}, ["layerz", "did you mean 'layers'"]),
        ({"strategies": [{"name": "ddp", "options": {"bucketmb": 2}}]}, ["bucketmb", "did you mean 'bucket_mb'"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_unknown_name_is_answered_with_the_nearest(values, words):
    (problem,) = problems(**values)
    assert all(word in problem for word in words), problem


def test_a_mesh_that_the_workload_does_not_allow_is_refused_with_what_would_do():
    (problem,) = problems(strategies=["tp"], ranks_per_node=3, global_batch=6)
    assert all(words in problem for words in ["tp=3 does not divide", "choose tp from 1, 2"]), problem


# ---------------------------------------------------------------- limits


def test_more_nodes_than_there_are_is_refused():
    (problem,) = problems(nodes=[1, 65], global_batch=260)
    assert "only 64" in problem


@pytest.mark.parametrize(("nodes", "time", "accepted"), [(4, "2h", True), (5, "2h", False), (5, "30m", True)])
def test_the_time_limit_of_a_qos_depends_on_the_size_of_the_job(nodes, time, accepted):
    values = {"nodes": [nodes], "time": time, "qos": "normal", "global_batch": 40}
    if accepted:
        assert plan(**values)
    else:
        assert "--time 00:30:00 or less" in problems(**values)[0]


@pytest.mark.parametrize(
    ("qos", "nodes", "words"), [("normal", 17, "1 to 16 nodes"), ("large", 7, "8 to any number of nodes")]
)
def test_a_job_outside_the_sizes_of_a_qos_is_refused(qos, nodes, words):
    (problem,) = problems(qos=qos, nodes=[nodes], time="10m", global_batch=2 * nodes)
    assert words in problem


def test_more_memory_than_a_node_has_is_refused():
    (problem,) = problems(memory="129GiB")
    assert "128GiB" in problem


def test_memory_is_refused_where_the_site_forbids_to_ask_for_it():
    (problem,) = problems(profile(node={"request_memory": "never"}), memory="1GiB")
    assert "must not be asked for" in problem


def test_the_whole_memory_is_asked_for_where_jobs_would_get_a_small_default():
    planned = plan(profile(node={"request_memory": "whole-node"}))
    assert {run.resources.memory for run in planned.runs} == {"0"}


def test_more_cpus_than_a_node_has_are_refused():
    (problem,) = problems(ranks_per_node=2, cpus_per_rank=9)
    assert "2 ranks x 9 CPUs is 18" in problem


GPUS = {"gpus_per_node": 4, "gpu_request": "gpus-per-node", "ranks_per_node": 4, "cpus_per_rank": 1}


def test_more_ranks_than_gpus_are_refused():
    (problem,) = problems(profile(node=GPUS), ranks_per_node=8, global_batch=32)
    assert "8 ranks a node, but 4 GPUs" in problem


@pytest.mark.parametrize(("whole_nodes", "gpus"), [(True, 4), (False, 2)])
def test_a_job_asks_for_all_gpus_of_whole_nodes_and_for_its_own_share_otherwise(whole_nodes, gpus):
    planned = plan(profile(node={**GPUS, "whole_nodes": whole_nodes}), ranks_per_node=2)
    assert {run.resources.gpus_per_node for run in planned.runs} == {gpus}


def test_a_pbs_cluster_is_refused_by_name():
    (problem,) = problems(profile(scheduler="pbs"))
    assert "PBS" in problem
    assert "site" in problem


def test_single_on_two_nodes_is_refused():
    (problem,) = problems(strategies=["single"], nodes=[2], ranks_per_node=1)
    assert "single is one process" in problem


def test_single_may_have_node_counts_of_its_own_beside_larger_ones():
    planned = plan(strategies=[{"name": "single", "nodes": [1]}, "ddp"], nodes=[1, 2], ranks_per_node=1, repeats=1)
    assert [(i.strategy, i.nodes) for i in identities(planned)] == [("single", 1), ("ddp", 1), ("ddp", 2)]


def test_a_pipeline_deeper_than_the_model_is_refused():
    (problem,) = problems(strategies=["pp"], nodes=[4], workload_options={"layers": 5})
    # llama-tiny's units are its blocks, the embedding and the output
    assert "8 stages is deeper than the model's 7 units" in problem


def test_a_mesh_that_does_not_divide_the_ranks_is_refused():
    (problem,) = problems(strategies=[{"name": "hybrid", "mesh": "pp=3,dp=-1"}], nodes=[2])
    assert "does not divide 4 ranks" in problem


def test_a_missing_account_is_a_warning_of_the_plan():
    planned = plan(profile(account_required=True))
    assert [warning.where for warning in planned.warnings] == ["cluster site"]


@pytest.mark.parametrize(("given", "sent"), [("m1", "m1_g"), ("m1_g", "m1_g"), ("", "")])
def test_the_accounts_suffix_is_added_once_and_to_an_account_only(given, sent):
    planned = plan(profile(node={"account_suffix": "_g"}), account=given)
    assert {run.resources.account for run in planned.runs} == {sent}


@settings(max_examples=10)
@given(repeats=st.integers(1, 6))
def test_fewer_than_three_repeats_are_warned_of(repeats):
    warned = any(warning.where == "repeats" for warning in plan(repeats=repeats).warnings)
    assert warned is (repeats < 3)


# ---------------------------------------------------------------- variants


def test_the_whole_grid_is_run_with_every_variant():
    planned = plan(workload="mlp", workload_options={"lr": 0.1}, variants=[{"layers": 3}, {"layers": 4}], nodes=[1, 2])
    shapes = [(one.repeat, one.workload_options["layers"], one.nodes) for one in identities(planned)]
    assert shapes == [(r, layers, nodes) for r in (1, 2, 3) for layers in (3, 4) for nodes in (1, 2)]
    assert {one.workload_options["lr"] for one in identities(planned)} == {0.1}


def test_every_variant_that_is_wrong_is_told():
    found = problems(workload="mlp", variants=[{"layers": 0}, {"layerz": 3}])
    assert any("layers" in text for text in found)
    assert any("layerz" in text for text in found)


def test_variants_that_mean_the_same_would_share_their_folders():
    layers = identities(plan(workload="mlp"))[0].workload_options["layers"]
    (text,) = problems(workload="mlp", variants=[{}, {"layers": layers}])
    assert f"variants: two of them mean the same: {{'layers': {layers}}}" in text


@pytest.mark.parametrize(("option", "value"), [("activation_checkpointing", "full"), ("precision", "bf16")])
def test_what_is_chosen_about_units_is_refused_for_trees(option, value):
    (text,) = problems(
        workload="xgboost",
        strategies=[{"name": "single", "options": {option: value}}],
        nodes=[1],
        ranks_per_node=1,
    )
    assert f"{option}: a workload of the kind 'boosting' is no model made of units" in text
