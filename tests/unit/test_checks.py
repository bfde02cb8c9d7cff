"""What the doctor finds before a job is sent, one trap a test; and that the gate stops on errors alone."""

import sys
from collections import namedtuple
from pathlib import Path

import pytest
from recorded_machines import built, recorded

from hpcpar.cli import main
from hpcpar.control import gate, slurm
from hpcpar.control.gate import checks, online
from hpcpar.control.plan import make_plan
from hpcpar.control.render import Shape, job_text, render
from hpcpar.decode import decode
from hpcpar.errors import InputError
from hpcpar.profile import ClusterProfile
from hpcpar.runs import find_studies
from hpcpar.spec import Study

GPUS = {"ranks_per_node": 4, "gpus_per_node": 4, "gpu_request": "gpus-per-node", "accelerator": "NVIDIA GH200"}


def profile_of(node=None, **more):
    kinds = {"n": {"description": "nodes", **(node or {})}}
    base = {"schema": 1, "name": "here", "description": "", "scheduler": "slurm", "default_node_type": "n"}
    return decode(ClusterProfile, {**base, "node_types": kinds, **more}, "test")


def case_of(profile, text=None, root=None, runs=1, **study):
    """The case of a study's first run, sent `runs` times."""
    plan = make_plan(Study(workload="mlp", global_batch=64, **study), profile, "test")
    run, kind = plan.runs[0], profile.node_types["n"]
    shape = Shape("k", "s", ("run",), Path("/r/s/b/k"), Path("/r/p"), sys.executable, run.resources, profile, kind)
    script = text or render(job_text(shape), profile).text
    shot = checks.Shot(script, "mine.sh.j2", runs, run.resources, kind)
    return checks.Case(plan, profile, sys.executable, (shot,), root)


def said(findings):
    return [(finding.level, finding.problem.what) for finding in findings]


# ---------------------------------------------------------------- offline


def test_an_srun_line_of_ones_own_without_cpus_gives_each_rank_one():
    """Pain 3.1: srun of Slurm 22.05 to 23.02 does not inherit --cpus-per-task."""
    profile = profile_of({"cpus_per_rank": 2})
    assert said(checks.script(case_of(profile))) == []
    ours = "#!/bin/bash\nsrun --ntasks=2 \\\n  python x.py --cpus-per-task-like=1\n"
    what = "an srun line without --cpus-per-task: from Slurm 22.05 to 23.02 every rank would get one CPU"
    assert said(checks.script(case_of(profile, ours))) == [("error", what)]
    assert said(checks.script(case_of(profile, "#!/bin/bash\nsrun -c 4 x\nsrun -n2 \\\n --cpus-per-task=4 x\n"))) == []


def test_a_directive_after_the_first_command_is_ignored_by_slurm():
    late = "#!/bin/bash\n#SBATCH --nodes=1\n# words\n\nmodule load x\n#SBATCH --time=1\n"
    assert said(checks.script(case_of(profile_of(), late))) == [
        ("error", "Slurm ignores what stands after the first command: #SBATCH --time=1")
    ]


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"])
def test_a_profile_that_chooses_devices_takes_another_jobs(name):
    """Pain 3.11, and submitit's own export of CUDA_VISIBLE_DEVICES."""
    profile = profile_of(GPUS, environment={"set": {name: "0"}})
    what = "overrides what Slurm gives the job: it may be another job's device (0)"
    assert ("error", what) in said(checks.gpus(case_of(profile)))


@pytest.mark.parametrize(
    ("node", "how"),
    [({"gpu_request": "gpus-per-task"}, "--gpus-per-task"), ({"gpu_bind": "closest"}, "--gpu-bind=closest")],
)
def test_one_visible_gpu_a_rank_is_warned_of(node, how):
    what = f"{how}: each rank sees one GPU; on some systems copies between GPUs of a node are then slow"
    assert said(checks.gpus(case_of(profile_of({**GPUS, **node})))) == [("warning", what)]


def test_gpus_that_no_rank_drives_are_charged_all_the_same():
    what = "2 ranks a node: 2 of its 4 GPUs stay idle, and are charged"
    assert said(checks.gpus(case_of(profile_of(GPUS), ranks_per_node=2))) == [("warning", what)]
    assert said(checks.gpus(case_of(profile_of({**GPUS, "whole_nodes": False}), ranks_per_node=2))) == []


def test_a_port_chosen_by_hand_has_no_effect():
    """Pain 3.13."""
    profile = profile_of(environment={"set": {"MASTER_PORT": "29500"}})
    assert [finding.problem.where for finding in checks.ports(case_of(profile))] == [
        "cluster here: environment: MASTER_PORT"
    ]


SLINGSHOT = {"NCCL_NET": "AWS Libfabric", "FI_CXI_DEFAULT_CQ_SIZE": "131072"}
LL128 = "nothing turns NCCL's LL128 protocol off, which was seen to corrupt data on GH200 with Slingshot"
NO_PLUGIN = "NCCL_NET=AWS Libfabric needs a plug-in, and no module or environment of this profile brings one"


@pytest.mark.parametrize(
    ("variables", "more", "expected"),
    [
        (SLINGSHOT, {}, [LL128, NO_PLUGIN]),
        ({**SLINGSHOT, "NCCL_PROTO": "^LL128"}, {"modules": ["aws-ofi-nccl"]}, []),
        ({**SLINGSHOT, "NCCL_PROTO": "Simple"}, {"modules": ["aws-ofi-nccl"]}, []),
        ({**SLINGSHOT, "NCCL_PROTO": "LL,LL128"}, {"modules": ["aws-ofi-nccl"]}, [LL128]),
        ({**SLINGSHOT, "NCCL_PROTO": "^LL"}, {"modules": ["aws-ofi-nccl"]}, [LL128]),
        ({"NCCL_IB_DISABLE": "1"}, {}, ["NCCL falls back to TCP: times are those of the slow network"]),
        ({"FI_PROVIDER": "tcp"}, {}, ["libfabric uses TCP: times are those of the slow network"]),
        ({"NCCL_SOCKET_IFNAME": "lo"}, {}, ["leads to no other node"]),
        ({"NCCL_SOCKET_IFNAME": "ib0"}, {}, []),
        ({"NCCL_P2P_DISABLE": "1"}, {}, ["copies between GPUs of a node go through the host's memory"]),
    ],
)
def test_the_wrong_network_is_told_before_it_is_measured(variables, more, expected):
    """Pain 3.12: NCCL says nothing."""
    profile = profile_of(GPUS, environment={"multi_node": variables, **more})
    assert [what for _, what in said(checks.fabric(case_of(profile, nodes=(2,))))] == expected


def test_what_holds_for_several_nodes_is_not_said_of_one():
    profile = profile_of(GPUS, environment={"multi_node": SLINGSHOT})
    assert said(checks.fabric(case_of(profile))) == []
    profile = profile_of(GPUS, environment={"set": SLINGSHOT})
    assert said(checks.fabric(case_of(profile))) == [("warning", "is not for jobs of one node")]


def test_a_folder_of_this_machine_alone_is_told_until_a_run_wrote_there(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_mounts", lambda: {"/": "xfs", str(tmp_path): "nfs4"})
    case = case_of(profile_of(), root=tmp_path / "runs")
    (finding,) = checks.storage(case)
    assert finding.problem.what == "on a file system of this machine alone (xfs); the nodes must see the same path"
    assert "runs folder" not in finding.problem.where
    monkeypatch.setattr(checks, "_mounts", lambda: {"/": "lustre", str(tmp_path): "tmpfs"})
    (finding,) = checks.storage(case)
    assert finding.problem.where == f"runs folder {tmp_path / 'runs'}"
    run = tmp_path / "runs" / "study" / "run"
    run.mkdir(parents=True)
    (run / "events.1.0.jsonl").touch()
    assert len(list(checks.storage(case))) == 1, "a folder without a spec is no run"
    (run / "spec.json").touch()
    assert list(checks.storage(case)) == []


def test_a_disk_that_is_nearly_full_is_told(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage(5 * 1024**2))
    monkeypatch.setattr(checks, "_mounts", dict)
    assert said(checks.storage(case_of(profile_of(), root=tmp_path))) == [("warning", "has 5.0 MiB left")]


def test_the_interpreter_is_tried_after_the_script_that_the_job_sources(tmp_path):
    activate = tmp_path / "a b;touch hacked"
    activate.write_text("export PYTHONPATH=/nowhere-at-all\nreturn 3\n")
    case = case_of(profile_of(environment={"activate": str(activate)}))
    (finding,) = checks.environment(case)
    assert finding.level == "error"
    assert "lacks: it failed without a message" in finding.problem.what
    activate.write_text("true\n")
    assert list(checks.environment(case)) == []
    assert [path.name for path in tmp_path.iterdir()] == [activate.name]


def test_what_modules_bring_is_unchecked_and_said_so():
    case = case_of(profile_of(environment={"modules": ["python/3.12"]}))
    assert said(checks.environment(case)) == [
        ("unchecked", "what Python has once the job has loaded python/3.12 is not known here")
    ]


def test_unconfirmed_values_are_named():
    source = {"keys": ["account_required"], "url": "u", "checked": "2026-11-21", "confirmed": False}
    assert said(checks.profile(case_of(profile_of(sources=[source])))) == [
        ("warning", "unconfirmed values: account_required")
    ]


# ---------------------------------------------------------------- online


def _limits(version, config=None, **study):
    found = built(recorded(version))
    profile = profile_of({"partition": study.pop("partition", ""), "qos": study.pop("qos", "")})
    runs = study.pop("runs", 1)
    case = case_of(profile, runs=runs, **study)
    return said(online.limit_findings(case, found._replace(config={**found.config, **(config or {})})))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"partition": "batch", "time": "1d"}, []),
        (
            {"partition": "batch", "time": "25h"},
            ["1-01:00:00 is longer than partition batch allows (1-00:00:00): the job would wait for ever"],
        ),
        ({"partition": "batch", "nodes": (17,), "global_batch": 17}, ["partition batch takes jobs of 1 to 16 nodes"]),
        ({"partition": "gpu", "qos": "long", "runs": 10}, []),
        ({"partition": "gpu", "qos": "long", "runs": 11}, ["11 runs, and QOS long lets you queue 10 jobs"]),
    ],
)
def test_limits_of_the_partition_and_the_qos_that_test_only_misses(asked, expected):
    """Pain 3.10: with EnforcePartLimits=NO such a job is taken, and pends for ever."""
    study = {"global_batch": 64, **asked}
    batch = study.pop("global_batch")
    found = built(recorded("20.11"))
    profile = profile_of({"partition": study.pop("partition"), "qos": study.pop("qos", "")})
    runs = study.pop("runs", 1)
    plan = make_plan(Study(workload="mlp", global_batch=batch, **study), profile, "test")
    shot = checks.Shot("", "t", runs, plan.runs[0].resources, profile.node_types["n"])
    case = checks.Case(plan, profile, sys.executable, (shot,))
    assert [what for _, what in said(online.limit_findings(case, found))] == expected


def test_the_account_limits_what_no_qos_limits():
    assert _limits("20.11", partition="gpu", qos="normal", time="47h") == []
    # The partition allows two days as well; the association's word is the QOS's, where the QOS says nothing.
    found = built(recorded("20.11"))
    short = found.associations[0]._replace(max_wall_s=3600.0)
    profile = profile_of({"partition": "gpu", "qos": "normal"})
    case = case_of(profile, time="2h")
    assert said(online.limit_findings(case, found._replace(associations=(short,)))) == [
        ("error", "02:00:00 is longer than account phys allows (01:00:00): the job would wait for ever")
    ]


def test_the_limit_that_sinfo_does_not_show_sits_in_the_partitions_qos():
    what = "1-01:00:00 is longer than QOS part_gpu allows (1-00:00:00): the job would wait for ever"
    enforced = {"AccountingStorageEnforce": "associations,limits,qos"}
    assert _limits("23.11", enforced, partition="gpu", time="25h") == [("error", what)]
    assert _limits("23.11", {}, partition="gpu", time="25h") == [], "limits that nobody enforces stop nobody"


def test_a_partition_that_takes_no_jobs_is_a_warning():
    assert _limits("25.05", partition="off", time="30m") == [
        ("warning", "partition off takes no jobs at present: they would wait")
    ]


def test_ports_that_the_site_limits_are_told_where_ranks_meet_across_nodes():
    ports = {"SrunPortRange": "60001-63000"}
    assert _limits("22.05.8", ports, partition="main") == []
    what = "the site limits srun to ports 60001-63000: if its nodes block others, ranks cannot meet"
    assert _limits("22.05.8", ports, partition="main", nodes=(2,)) == [("warning", what)]


def test_what_slurm_refuses_is_said_in_its_own_words(commands):
    commands.borrow("cat")
    commands.write("sbatch", "cat >/dev/null; echo 'allocation failure: Invalid account' >&2; exit 1")
    (finding,) = online.test_only(case_of(profile_of()))
    assert finding.level == "error"
    assert finding.problem.what == "Slurm would refuse it: allocation failure: Invalid account"


@pytest.mark.parametrize("words", ["resolve_ctls_from_dns_srv: Unknown host", "Unable to contact slurm controller"])
def test_a_controller_that_was_never_reached_has_refused_nothing(commands, words):
    commands.write("sbatch", f"echo 'allocation failure: {words}' >&2; exit 1")
    (finding,) = online.test_only(case_of(profile_of()))
    assert finding.level == "unchecked"
    assert finding.problem.what == f"sbatch --test-only gave no answer: allocation failure: {words}"


def test_a_controller_that_does_not_answer_stops_nobody(commands, monkeypatch):
    commands.borrow("sleep")
    commands.write("sbatch", "exec sleep 60")
    commands.write("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    commands.write("sacctmgr", "exit 1")
    monkeypatch.setattr(slurm, "TIMEOUT_S", 0.2)
    case = case_of(profile_of())
    levels = {finding.level for check in gate.ONLINE for finding in check.look(case)}
    assert levels == {"unchecked"}


# ---------------------------------------------------------------- the gate


def test_errors_of_all_checks_come_at_once_and_warnings_pass(commands):
    for name in ("sbatch", "srun", "squeue"):
        commands.write(name, "exit 0")
    profile = profile_of(
        {**GPUS, "gpu_bind": "closest"},
        account_required=True,
        environment={"set": {"CUDA_VISIBLE_DEVICES": "0"}},
    )
    with pytest.raises(InputError) as caught:
        gate.check(case_of(profile))
    words = [problem.what for problem in caught.value.problems]
    assert words[0] == "needs an account to charge, and none is given"
    assert words[1].startswith("overrides what Slurm gives the job")
    assert len(words) == 2
    warnings = gate.check(case_of(profile_of({**GPUS, "gpu_bind": "closest"})))
    assert [problem.what.partition(":")[0] for problem in warnings] == ["--gpu-bind=closest"]


SMALL = ("--workload", "mlp", "--nodes", "1", "--steps", "2")


def test_the_doctor_says_all_and_ends_with_one(commands, tmp_path, capsys):
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'schema = 1\nname = "mine"\ndescription = ""\nscheduler = "slurm"\ndefault_node_type = "n"\n'
        "account_required = true\n[node_types.n]\n"
    )
    assert main(["doctor", "--cluster", str(mine), *SMALL]) == 1
    out, err = capsys.readouterr()
    lines = {line.split()[1]: line.split()[0] for line in out.splitlines() if not line.startswith(" ")}
    assert lines == {
        **dict.fromkeys(("environment", "script", "gpus", "ports", "network", "profile"), "ok"),
        **dict.fromkeys(("account", "scheduler"), "error"),
        **dict.fromkeys(("sbatch", "limits"), "unchecked"),
        "plan": "warning",
        "storage": lines["storage"],
    }
    assert "2 errors" in err
    assert not list(tmp_path.glob("runs*"))


def test_the_doctor_of_a_study_that_cannot_be_planned_looks_at_the_rest(capsys, isolation):
    assert main(["doctor", "--cluster", "local", *SMALL, "--global-batch", "7", "--micro-batch", "3"]) == 1
    out = capsys.readouterr().out
    assert "error      plan         flags: strategy ddp on 1 node x 1 ranks: a global batch of 7 does not divide" in out
    assert "unchecked  environment" in out
    assert "ok         ports" in out
    assert not (isolation / "runs").exists()


def test_the_doctor_without_a_word_looks_at_this_machine(commands, capsys):
    assert main(["doctor", "--json"]) == 0
    assert '"check": "environment"' in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "word"), [((), "passed"), (("--no-gate",), "skipped")])
def test_whether_the_gate_was_passed_stands_in_every_submission(monkeypatch, isolation, flags, word):
    from hpcpar.control import local_queue

    monkeypatch.setattr(local_queue, "start", lambda: None)
    assert main(["submit", "--cluster", "local", *SMALL, *flags]) == 0
    (study,) = find_studies(isolation / "runs")
    (run,) = study.runs()
    assert [line.gate for line in run.submissions()] == [word]
    (batch,) = study.batches()
    assert (batch.read().intent.gate, batch.read().accepted.gate) == (word, word)


def test_without_the_gate_nothing_is_looked_at(monkeypatch, isolation):
    from hpcpar.control import local_queue

    monkeypatch.setattr(local_queue, "start", lambda: None)
    monkeypatch.setitem(checks.EXTRA_PACKAGES, "torch", ("no_such_package",))
    assert main(["submit", "--cluster", "local", *SMALL]) == 2
    assert not (isolation / "runs").exists()
    assert main(["submit", "--cluster", "local", *SMALL, "--no-gate"]) == 0
