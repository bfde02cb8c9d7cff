"""A first profile of a machine: from what several versions of Slurm print, and from whatever text there is."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_machines import PARTS, RECORDED, built, profile_of, recorded, stubs

from hpcpar.cli import main
from hpcpar.control.cluster import answers
from hpcpar.control.cluster.answers import parse_gres, parse_nodes, parse_partitions, parse_qos, seconds
from hpcpar.control.cluster.detect import detect
from hpcpar.control.cluster.verify import verify
from hpcpar.control.gate.checks import Case, Shot
from hpcpar.control.gate.online import limit_findings
from hpcpar.control.plan import Plan, make_plan
from hpcpar.decode import decode, parse_toml
from hpcpar.errors import InputError
from hpcpar.profile import ClusterProfile
from hpcpar.spec import Resources, Study

VERSIONS = sorted(folder.name for folder in RECORDED.iterdir() if folder.is_dir())


# ---------------------------------------------------------------- recorded outputs


@pytest.mark.parametrize("version", VERSIONS)
def test_a_study_can_be_planned_on_what_was_detected(version):
    profile, _ = profile_of(built(recorded(version)))
    for name, kind in profile.node_types.items():
        nodes = profile.partitions[kind.partition].min_nodes
        plan = make_plan(Study(workload="mlp", nodes=(nodes,), node_type=name, global_batch=11520), profile, "test")
        assert plan.runs[0].resources.partition == kind.partition
        assert kind.ranks_per_node * kind.cpus_per_rank <= kind.usable_cpus


def test_the_test_cluster():
    profile, notes = profile_of(built(recorded("22.05.8")))
    kind = profile.node_types["cpu"]
    assert (kind.num_nodes, kind.usable_cpus, kind.memory, kind.gpu_request) == (4, 4, "16384M", "none")
    assert (kind.partition, kind.qos, profile.max_array_size) == ("main", "normal", 1001)
    assert {name: table.max_time_s(1) for name, table in profile.partitions.items()} == {
        "main": None,
        "short": 300.0,
        "high": None,
    }
    assert set(profile.qos) == {"normal", "low", "high"}
    assert notes == ()


def test_20_11_says_in_cores_what_the_system_keeps():
    profile, _ = profile_of(built(recorded("20.11")))
    cpu, gpu = profile.node_types["cpu"], profile.node_types["gpu"]
    assert (cpu.usable_cpus, cpu.ranks_per_node, cpu.cpus_per_rank, cpu.request_memory) == (46, 2, 23, "whole-node")
    assert (gpu.gpus_per_node, gpu.accelerator, gpu.gpu_request, gpu.usable_cpus) == (4, "v100", "gres", 80)
    assert gpu.memory == "380000M", "a reason may say anything"
    assert profile.partitions["batch"].max_nodes() == 16
    assert profile.qos["long"].limits[0].max_nodes == 4
    assert profile.qos["long"].max_queued == 10
    assert set(profile.qos) == {"normal", "long"}, "the QOS of another cluster's association is not ours"


def test_kinds_of_nodes_in_one_partition_are_told_apart_by_what_they_have():
    profile, _ = profile_of(built(recorded("23.11")))
    kinds = {kind.accelerator: kind for kind in profile.node_types.values()}
    assert set(kinds) == {"a100", "v100"}, "neither a partition of other accounts nor a planned node is ours"
    assert (kinds["a100"].constraint, kinds["v100"].constraint) == ("a100", "v100")
    assert (kinds["a100"].num_nodes, kinds["a100"].memory) == (2, "240000M")
    # The limit that sinfo shows is two days; the partition's QOS has one.
    assert profile.partitions["gpu"].max_time_s(1) == 86400
    assert profile.account_required, "associations are enforced and there is no default account"
    assert profile.qos["debug"].charge_factor == 0.5


def test_a_partition_whose_name_no_script_could_hold_is_left_out():
    profile, _ = profile_of(built(recorded("23.11")))
    assert set(profile.partitions) == {"gpu"}
    assert parse_partitions(recorded("23.11")["partition"])[0].name == "CPU nodes (amd)"


def test_25_05_limits_nodes_without_a_time():
    profile, _ = profile_of(built(recorded("25.05")))
    kind = profile.node_types["gpu"]
    assert (kind.gpus_per_node, kind.accelerator, kind.ranks_per_node) == (4, "nvidia_gh200_120gb", 4)
    assert profile.partitions["gh"].max_nodes() == 32
    assert profile.partitions["gh"].min_nodes == 2
    assert set(profile.partitions) == {"gh"}, "a partition that takes no jobs is left out"
    assert profile.max_array_size == 4000001


def test_sinfo_says_the_same_where_scontrol_keeps_its_nodes_to_itself():
    def essence(nodes):
        return [(n.name, n.cpus, n.memory_mib, n.gpus, n.partitions, n.exists) for n in nodes]

    by_line = answers.parse_sinfo((RECORDED / "22.05.8" / "sinfo").read_text())
    assert essence(by_line) == essence(parse_nodes(recorded("22.05.8")["node"]))


def test_one_line_a_record_and_several_are_the_same():
    text = recorded("20.11")["node"]
    in_one = "\n".join(" ".join(line.strip() for line in block.splitlines()) for block in text.split("\n\n"))
    assert parse_nodes(in_one) == parse_nodes(text)
    assert len(parse_nodes(text)) == 4


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("(null)", (0, "")),
        ("gpu:4", (4, "")),
        ("gpu", (1, "")),
        ("gpu:a100:4(S:0,2-3)", (4, "a100")),
        ("gres:gpu:a100:2,craynetwork:4", (2, "a100")),
        ("gpu:a100:2,gpu:v100:1", (3, "")),
        ("gpu:1g.10gb:7", (7, "1g.10gb")),
        ("shard:8,mps:100", (0, "")),
    ],
)
def test_generic_resources(text, answer):
    assert parse_gres(text) == answer


@pytest.mark.parametrize(
    "word", ["UNLIMITED", "infinite", "INFINITE", "N/A", "NONE", "", "-1", "Partition_Limit", "1-"]
)
def test_no_limit_is_never_read_as_zero(word):
    assert seconds(word) is None


def test_columns_are_found_by_name_wherever_they_stand():
    (row,) = parse_qos("MaxWall|Name|SomethingNew|\n1-00:00:00|q|x|\n")
    assert (row.name, row.max_wall_s, row.usage_factor, row.max_submit) == ("q", 86400.0, None, None)


# ---------------------------------------------------------------- arbitrary text

_PIECES = sorted({word for version in VERSIONS for text in recorded(version).values() for word in text.split(" ")})
_LINES = sorted({line for version in VERSIONS for text in recorded(version).values() for line in text.splitlines()})
_noise = st.lists(
    st.sampled_from(_PIECES) | st.sampled_from(_LINES) | st.text(st.characters(), max_size=6), max_size=25
).flatmap(lambda words: st.sampled_from([" ", "\n", "", "\n   ", "|"]).map(lambda joint: joint.join(words)))


@st.composite
def _mutated(draw):
    """The answers of one version, each with a stretch of it replaced."""
    answers = recorded(draw(st.sampled_from(VERSIONS)))
    for part in draw(st.sets(st.sampled_from(PARTS))):
        text = answers[part]
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, len(text)))
        answers[part] = text[:start] + draw(_noise) + text[end:]
    return answers


def _detected(answers):
    try:
        return detect(built(answers), "here", "2026-11-21")
    except InputError as error:
        return str(error)


@given(st.fixed_dictionaries(dict.fromkeys(PARTS, _noise)) | _mutated())
def test_whatever_slurm_prints_gives_a_profile_that_decodes_or_one_sentence(answers):
    detected = _detected(answers)
    if isinstance(detected, str):
        assert detected == "this cluster: Slurm shows no nodes in a partition that takes jobs of yours"
        return
    profile = decode(ClusterProfile, parse_toml(detected.text, "here"), "here")
    assert all(character.isprintable() or character == "\n" for character in detected.text)
    assert all(kind.ranks_per_node * kind.cpus_per_rank <= kind.usable_cpus for kind in profile.node_types.values())


@functools.cache
def _undamaged():
    return profile_of(built(recorded("22.05.8")))[0]


def _looked_at(answers):
    """What the gate finds in this machine, and how a profile of the undamaged one differs from it."""
    profile = _undamaged()
    found = built(answers)
    shots = tuple(
        Shot("", "", 3, Resources(nodes=nodes, ranks_per_node=1, cpus_per_rank=1, time_s=9e6, qos=qos), node_type)
        for node_type in profile.node_types.values()
        for nodes, qos in ((1, ""), (4, "high"))
    )
    findings = list(limit_findings(Case(Plan((), ()), profile, "python", shots), found))
    return findings, verify(profile, found).differences


@given(st.fixed_dictionaries(dict.fromkeys(PARTS, _noise)) | _mutated())
def test_whatever_slurm_prints_the_gate_and_verify_look_at_it(answers):
    findings, differences = _looked_at(answers)
    assert {one.level for one in findings} <= {"error", "warning", "unchecked"}
    assert all(one.problem.what for one in findings)
    assert all(one.key for one in differences)


@pytest.mark.full
@settings(max_examples=3000, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(PARTS, _noise)) | _mutated())
def test_whatever_slurm_prints_thousands_of_times(answers):
    _detected(answers)
    _looked_at(answers)


@given(_noise)
def test_sinfos_answer_is_never_an_exception(text):
    assert all(node.name for node in answers.parse_sinfo(text))


# ---------------------------------------------------------------- the command


def test_the_profile_goes_into_a_file_that_submit_takes(commands, tmp_path, capsys, monkeypatch):
    stubs(commands, "20.11")
    monkeypatch.chdir(tmp_path)
    assert main(["cluster", "detect", "--out", "mine.toml"]) == 0
    capsys.readouterr()
    assert main(["submit", "--cluster", "./mine.toml", "--workload", "mlp", "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --partition=batch" in script
    assert "#SBATCH --mem=0" in script
    assert main(["cluster", "detect", "--out", "mine.toml"]) == 2
    assert "mine.toml: is there already" in capsys.readouterr().err


def test_what_does_not_answer_is_named_and_the_rest_is_written(commands, capsys):
    stubs(commands, "22.05.8")
    commands.write("sacctmgr", "echo 'accounting storage is disabled' >&2; exit 1")
    assert main(["cluster", "detect"]) == 0
    out, err = capsys.readouterr()
    assert "[qos." not in out
    assert "# - not answered: sacctmgr show qos: accounting storage is disabled" in out
    assert "warning: not answered: sacctmgr show assoc" in err


def test_without_slurm_there_is_nothing_to_detect(commands, capsys):
    assert main(["cluster", "detect"]) == 2
    assert "no 'scontrol' on PATH" in capsys.readouterr().err


def test_where_slurm_does_not_answer_at_all_there_is_something_to_try(commands, capsys):
    stubs(commands, "22.05.8")
    commands.write("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert main(["cluster", "detect"]) == 1
    err = capsys.readouterr().err
    assert "Unable to contact slurm controller" in err
    assert "look with `scontrol ping`" in err
