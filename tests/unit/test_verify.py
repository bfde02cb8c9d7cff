"""A profile beside the machine that Slurm describes: every planted difference is found, and nothing else."""

import pytest
from recorded_machines import built, profile_of, recorded, stubs

from hpcpar.cli import main
from hpcpar.control.cluster.detect import detect
from hpcpar.control.cluster.verify import Difference, verify
from hpcpar.decode import decode, parse_toml
from hpcpar.profile import ClusterProfile

VERSIONS = ("20.11", "22.05.8", "23.11", "25.05")


def differences(version, *changes):
    """Detect, change the file as a person would, and compare it with the same machine."""
    found = built(recorded(version))
    text = detect(found, "here", "2026-11-21").text
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    return verify(decode(ClusterProfile, parse_toml(text, "here"), "here"), found).differences


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_detected_agrees(version):
    assert differences(version) == ()


@pytest.mark.parametrize(
    ("version", "change", "difference"),
    [
        (
            "22.05.8",
            ("max_array_size = 1001", "max_array_size = 2000"),
            Difference("max_array_size", "2000", "1001", "max_array_size = 1001"),
        ),
        (
            "22.05.8",
            ("num_nodes = 4", "num_nodes = 5"),
            Difference("node_types.cpu.num_nodes", "5", "4", "num_nodes = 4"),
        ),
        (
            "22.05.8",
            ("usable_cpus = 4", "usable_cpus = 5"),
            Difference("node_types.cpu.usable_cpus", "5", "4", "usable_cpus = 4"),
        ),
        (
            "22.05.8",
            ("cpus_per_rank = 4", "cpus_per_rank = 5"),
            Difference("node_types.cpu.cpus_per_rank", "1 ranks x 5", "4 CPUs a node", "cpus_per_rank = 4"),
        ),
        (
            "22.05.8",
            ('memory = "16384M"', 'memory = "17G"'),
            Difference("node_types.cpu.memory", "17G", "16384M", 'memory = "16384M"'),
        ),
        (
            "22.05.8",
            ('"00:05:00"', '"1h"'),
            Difference("partitions.short.limits", "01:00:00", "00:05:00", 'limits = [{ max_time = "00:05:00" }]'),
        ),
        (
            "22.05.8",
            ("[partitions.high]", "[partitions.hgh]"),
            Difference(
                "partitions.hgh",
                "is a partition",
                "there is no such partition",
                "did you mean 'high'? (one of: high, main, short)",
            ),
        ),
        (
            "22.05.8",
            ('partition = "main"', 'partition = "main"\nconstraint = "fast"'),
            Difference("node_types.cpu.constraint", "fast", "no node has: fast", "there is nothing to choose from"),
        ),
        (
            "20.11",
            ("threads_per_core = 2", "threads_per_core = 1"),
            Difference("node_types.gpu.threads_per_core", "1", "2", "threads_per_core = 2"),
        ),
        (
            "20.11",
            ("max_nodes = 16", "max_nodes = 17"),
            Difference("partitions.batch.limits", "17 nodes", "16 nodes", "max_nodes = 16"),
        ),
        (
            "20.11",
            ("max_queued = 10", "max_queued = 11"),
            Difference("qos.long.max_queued", "11", "10", "max_queued = 10"),
        ),
        (
            "20.11",
            ("gpus_per_node = 4", "gpus_per_node = 8"),
            Difference("node_types.gpu.gpus_per_node", "8", "nodes have 4", "gpus_per_node = 4"),
        ),
        (
            "23.11",
            ("account_required = true", "account_required = false"),
            Difference("account_required", "false", "you have no default account", "account_required = true"),
        ),
        (
            "23.11",
            ("account_required = true", 'account_required = true\naccount = "por"'),
            Difference("account", "por", "yours: poor", "did you mean 'poor'? (one of: poor)"),
        ),
        (
            "23.11",
            ('"1-00:00:00"', '"2d"'),
            Difference("partitions.gpu.limits", "2-00:00:00", "1-00:00:00", 'limits = [{ max_time = "1-00:00:00" }]'),
        ),
        (
            "25.05",
            ('partition = "gh"', 'partition = "gh"\nqos = "course"'),
            Difference(
                "node_types.gpu.qos",
                "course",
                "partition gh takes no jobs of QOS course",
                "another one, or ask the site",
            ),
        ),
    ],
)
def test_each_difference_comes_with_what_to_write(version, change, difference):
    assert differences(version, change) == (difference,)


def test_a_stricter_profile_is_no_difference():
    assert differences("22.05.8", ('"00:05:00"', '"4m"'), ("max_array_size = 1001", "max_array_size = 100")) == ()


def test_a_partition_that_takes_no_jobs_is_told():
    found = built(recorded("25.05"))
    text = detect(found, "here", "2026-11-21").text.replace('partition = "gh"', 'partition = "off"')
    profile = decode(ClusterProfile, parse_toml(text + "\n[partitions.off]\n", "here"), "here")
    (first, *_) = verify(profile, found).differences
    assert (first.key, first.machine) == ("partitions.off.limits", "01:00:00")
    assert (
        Difference("node_types.gpu.partition", "off", "takes no jobs at present", "ask the site, or another one")
        in verify(profile, found).differences
    )


def test_what_did_not_answer_is_no_difference():
    profile, _ = profile_of(built(recorded("20.11")))
    silent = built(dict.fromkeys(recorded("20.11"), ""))
    assert verify(profile, silent._replace(silent=("scontrol show partition: no",))) == (
        (),
        ("scontrol show partition: no",),
        (),
    )


def test_the_command_says_it_with_its_exit_code(commands, tmp_path, capsys):
    stubs(commands, "22.05.8")
    commands.write("sbatch", "exit 0")
    assert main(["cluster", "verify", "slurm-test"]) == 0
    assert "no differences" in capsys.readouterr().err
    commands.write("sbatch", "echo 'allocation failure: Invalid license specification' >&2; exit 1")
    assert main(["cluster", "verify", "slurm-test"]) == 1
    assert "sbatch --test-only says: allocation failure: Invalid license specification" in capsys.readouterr().out
    assert main(["cluster", "verify", "clariden", "--json"]) == 1
    answer = capsys.readouterr().out
    assert '"agrees": false' in answer
    assert '"key": "partitions.normal"' in answer
    assert main(["cluster", "verify", "local"]) == 2
    assert "its scheduler is 'local'" in capsys.readouterr().err
