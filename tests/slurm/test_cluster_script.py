"""examples/slurm-cluster on the real thing: every test here runs real Slurm daemons.

Each cluster has its own short folder (a Unix socket's path ends at 107 bytes, pytest's tmp_path
is too deep) and nothing of it may be left when it is down.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm-cluster"
HOSTS = Path("/etc/hosts")
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")


def clean_env(**more: str) -> dict[str, str]:
    """The tests' environment without settings of another cluster."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("HPCPAR_SLURM_", "SLURM_"))} | more


class Tool:
    """The script, used as a user does, on one folder; every call ends in bounded time."""

    def __init__(self, folder: Path, prefix: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.prefix = prefix
        self.script = SCRIPT

    def __call__(self, *args: str, timeout: float = 60, cwd: Path | None = None, **env: str):
        name, *rest = args
        return subprocess.run(
            [*self.prefix, str(self.script), name, "--dir", str(self.folder), *rest],
            env=clean_env(**env), cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def good(self, *args: str, **more) -> str:
        result = self(*args, **more)
        assert result.returncode == 0, result.stderr + result.stdout
        return result.stdout

    def pids(self) -> dict[str, int]:
        record = json.loads((self.folder / "cluster.json").read_text())
        return {name: pid for name, (pid, _) in record["started"].items()}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def poll(probe, seconds: float, what: str):
    """The first true answer of `probe`; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := probe():
            return answer
        time.sleep(0.2)
    pytest.fail(f"not within {seconds} s: {what}")


def runs_here(*options: str) -> None:
    """Skip, with the script's own reason, where it cannot start a cluster."""
    with tempfile.TemporaryDirectory(prefix="sc", dir="/tmp") as folder:
        result = Tool(Path(folder) / "c")("check", *options)
    if result.returncode:
        pytest.skip(f"no Slurm of our own here: {result.stderr.strip()}")


@pytest.fixture
def tool():
    """The script on a folder that does not exist yet; whatever it starts is ended."""
    base = Path(tempfile.mkdtemp(prefix="sc", dir="/tmp"))
    base.chmod(0o755)
    tool = Tool(base / "c")
    yield tool
    down = tool("down")
    left = [path.name for path in base.iterdir()]
    shutil.rmtree(base)
    assert down.returncode == 0, down.stderr
    assert left in ([], ["slurm-cluster"]), left


@pytest.fixture(scope="module", params=["ns", pytest.param("plain", marks=pytest.mark.full)])
def cluster(request):
    """A cluster with accounting, for the tests that only use it."""
    runs_here("--mode", request.param)
    before = HOSTS.read_text(), SYSTEM_CONF.is_symlink()
    base = Path(tempfile.mkdtemp(prefix="sc", dir="/tmp"))
    tool = Tool(base / "c")
    tool.mode = request.param
    options = "--mode", tool.mode, "--nodes", "3", "--gpus", "2", "--slurmd-timeout", "10", "--max-array-size", "77"
    try:
        tool.good("up", *options, timeout=120)
        pids = tool.pids()
        yield tool
        pids |= tool.pids()
    finally:
        tool.good("down")
        shutil.rmtree(base)
    assert not [name for name, pid in pids.items() if alive(pid)]
    assert (HOSTS.read_text(), SYSTEM_CONF.is_symlink()) == before


def submit(tool: Tool, *args: str) -> str:
    return tool.good("exec", "sbatch", "--parsable", "-t1", "-o", "/dev/null", *args).strip()


def state(tool: Tool, job: str) -> str:
    return tool.good("exec", "squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()


def sacct(tool: Tool, job: str, fields: str) -> list[str]:
    return tool.good("exec", "sacct", "-n", "-X", "-P", "-D", "-j", job, "-o", fields).split()


def test_exec_keeps_folder_environment_and_exit_code(cluster, tmp_path):
    script = 'pwd; echo "$GREETING"; echo "$SLURM_CONF"; exit 7'
    result = cluster("exec", "sh", "-c", script, cwd=tmp_path, GREETING="good day")
    assert result.returncode == 7
    assert result.stdout.split("\n")[:3] == [str(tmp_path), "good day", str(cluster.folder / "etc/slurm.conf")]


def test_exec_of_an_unknown_command(cluster):
    assert cluster("exec", "no-such-command-here").returncode == 127


def test_status_and_env(cluster):
    assert "slurmd.n3" in cluster.good("status")
    assert cluster.good("env").strip() == f"export SLURM_CONF={cluster.folder}/etc/slurm.conf"


def test_up_refuses_a_second_start(cluster):
    result = cluster("up")
    assert result.returncode == 1
    assert "up in" in result.stderr
    assert cluster("status").returncode == 0


def test_a_step_reaches_every_node(cluster):
    script = "echo $SLURMD_NODENAME $(hostname)"
    lines = sorted(cluster.good("exec", "srun", "-t1", "-N3", "sh", "-c", script).split("\n"))[1:]
    names = [line.split() for line in lines]
    assert [node for node, _ in names] == ["n1", "n2", "n3"]
    hosts = {host for _, host in names}
    assert hosts == ({"n1", "n2", "n3"} if cluster.mode == "ns" else {os.uname().nodename})


def test_nodes_share_the_filesystem_and_not_dev_shm(cluster, tmp_path):
    (tmp_path / "in").write_text("hello")
    name = f"slurm-cluster-test-{os.getpid()}"
    script = f"cat in; touch /dev/shm/{name}; ls /dev/shm"
    out = cluster.good("exec", "srun", "-t1", "-N1", "sh", "-c", script, cwd=tmp_path)
    seen = Path(f"/dev/shm/{name}")
    assert out.startswith("hello")
    assert seen.exists() is (cluster.mode == "plain")
    seen.unlink(missing_ok=True)


def test_gpus_are_handed_out_apart(cluster):
    both = "srun -t1 -N1 -n1 -w n1 --gpus=1 sh -c 'echo $CUDA_VISIBLE_DEVICES; sleep 2' & "
    out = cluster.good("exec", "sh", "-c", f"{both} {both} wait")
    assert sorted(out.split()) == ["0", "1"]


def test_configuration(cluster):
    config = cluster.good("exec", "scontrol", "show", "config")
    values = dict(line.split("=", 1) for line in config.splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, value in values.items()}
    assert values["MaxArraySize"] == "77"
    assert values["EnforcePartLimits"] == "ALL"
    assert values["SlurmdTimeout"] == "10 sec"
    assert "cred_expire=10" in values["AuthInfo"]
    assert int(values["FirstJobId"]) > 1


def test_limits_are_enforced_at_submission(cluster):
    for bad in (["-p", "short", "-t", "60"], ["-A", "nobodys"], ["--qos", "none"], ["-N", "9"]):
        result = cluster("exec", "sbatch", *bad, "--wrap", "true")
        assert result.returncode, bad


@pytest.mark.full
def test_the_high_partition_preempts_and_the_job_is_requeued(cluster):
    low = submit(cluster, "-N3", "--exclusive", "--wrap", "sleep 50")
    poll(lambda: state(cluster, low) == "RUNNING", 20, "the low job runs")
    high = submit(cluster, "-p", "high", "-N3", "--exclusive", "--wrap", "sleep 1")
    poll(lambda: state(cluster, high) in ("RUNNING", "COMPLETED"), 20, "the high job runs")
    poll(lambda: sacct(cluster, high, "qos,state") == ["high|COMPLETED"], 20, "the high job is accounted")
    poll(lambda: "PREEMPTED" in sacct(cluster, low, "state"), 10, "the preemption is accounted")
    assert state(cluster, low) in ("PENDING", "RUNNING")
    cluster.good("exec", "scancel", low)
    poll(lambda: state(cluster, low) == "CANCELLED", 20, "the low job is gone")


@pytest.mark.full
def test_a_crashed_node_fails_its_job_and_comes_back(cluster):
    marks = cluster.folder.parent
    script = f"sleep 7 && touch {marks}/survived-$SLURM_RESTART_COUNT; sleep 40"
    job = submit(cluster, "-N1", "-w", "n2", "--wrap", script)
    poll(lambda: state(cluster, job) == "RUNNING", 20, "the job runs")
    cluster.good("kill-node", "n2")
    assert cluster("kill-node", "n2").returncode == 1
    assert "slurmd.n2    stopped" in cluster("status").stdout
    poll(lambda: "NODE_FAIL" in sacct(cluster, job, "state"), 60, "the node's failure is accounted")
    assert not (marks / "survived-").exists()
    assert state(cluster, job) in ("PENDING", "RUNNING")  # requeued
    cluster.good("exec", "scancel", job)
    cluster.good("start-node", "n2")
    assert cluster.good("exec", "srun", "-t1", "-w", "n2", "echo", "back") == "back\n"
    assert cluster("status").returncode == 0


@pytest.mark.full
def test_a_node_that_restarts_before_anyone_noticed(cluster):
    cluster.good("kill-node", "n3")
    cluster.good("start-node", "n3")
    assert cluster.good("exec", "srun", "-t1", "-w", "n3", "echo", "back") == "back\n"


@pytest.mark.full
def test_accounting_stops_and_starts(cluster):
    cluster.good("stop-accounting")
    assert cluster("exec", "sacct").returncode
    assert cluster("exec", "squeue").returncode == 0
    job = submit(cluster, "--wrap", "true")  # slurmctld keeps what it has to tell
    cluster.good("start-accounting")
    poll(lambda: sacct(cluster, job, "state") == ["COMPLETED"], 40, "the job is accounted afterwards")


@pytest.mark.full
def test_controller_stops_and_starts(cluster):
    job = submit(cluster, "--wrap", "sleep 4")
    poll(lambda: state(cluster, job) == "RUNNING", 20, "the job runs")
    cluster.good("stop-controller")
    assert "DOWN" in cluster("exec", "scontrol", "ping").stdout
    cluster.good("start-controller")
    poll(lambda: state(cluster, job) == "COMPLETED", 20, "the job ends")
    assert cluster.good("exec", "srun", "-t1", "-N3", "echo", "up") == "up\n" * 3


def test_an_unknown_node(cluster):
    result = cluster("kill-node", "n9")
    assert result.returncode == 2
    assert "n1, n2, n3" in result.stderr


@pytest.mark.parametrize("mode", ["ns", pytest.param("plain", marks=pytest.mark.full)])
def test_down_ends_running_jobs_and_can_be_repeated(tool, mode):
    options = "--mode", mode, "--no-accounting", "--nodes", "1"
    runs_here(*options)
    tool.good("up", *options)
    pids = list(tool.pids().values())
    mark = tool.folder.parent / "pid"
    script = f"(setsid sleep 61 & echo $! >{mark}); sleep 60"  # one process leaves the job's tree
    tool.good("exec", "sbatch", "-o", "/dev/null", "--wrap", script)
    poll(mark.exists, 20, "the job runs")
    assert subprocess.run(["pgrep", "-fx", "sleep 61"], check=False, capture_output=True).stdout
    tool.good("down")
    mark.unlink()
    assert not [pid for pid in pids if alive(pid)]
    left = subprocess.run(["pgrep", "-fx", "sleep 61"], check=False, capture_output=True, text=True).stdout.split()
    assert not [pid for pid in left if alive(int(pid))]
    assert not tool.folder.exists()
    assert tool("down").returncode == 0


@pytest.mark.full
def test_two_clusters_side_by_side_differ(tool):
    runs_here("--mode", "auto", "--no-accounting")
    other = Tool(tool.folder.parent / "d")
    try:
        for each in (tool, other):
            each.good("up", "--no-accounting", "--nodes", "2", "--mode", "plain" if each is other else "auto")
            time.sleep(1.1)  # job ids go by the second
        first = [int(submit(each, "--wrap", "true")) for each in (tool, other)]
        assert first[0] < first[1]
        for each in (tool, other):
            assert each.good("exec", "srun", "-t1", "-N2", "echo", "up") == "up\n" * 2
    finally:
        other.good("down")


def broken(base: Path, program: str, script: str) -> str:
    """A PATH on which `program` is a script of ours."""
    folder = base / "bin"
    folder.mkdir()
    (folder / program).write_text(f"#!/bin/sh\n{script}\n")
    (folder / program).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.full
@pytest.mark.parametrize("program", ["slurmctld", "mariadb-install-db", "slurmd"])
def test_a_failed_start_says_why_and_leaves_nothing(tool, tmp_path, program):
    runs_here()
    hosts = HOSTS.read_text()
    path = broken(tmp_path, program, "[ $1 = -V ] && exec echo slurm 22.05.8; echo 'gears are missing'; exit 5")
    result = tool("up", "--nodes", "1", timeout=120, PATH=path)
    assert result.returncode == 1
    assert program in result.stderr
    assert "gears are missing" in result.stderr
    assert not tool.folder.exists()
    assert HOSTS.read_text() == hosts


@pytest.mark.full
@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.9, 2.0])
def test_an_interrupted_start_leaves_nothing(tool, seconds):
    runs_here("--mode", "plain")
    hosts = HOSTS.read_text()
    command = [str(SCRIPT), "up", "--mode", "plain", "--dir", str(tool.folder)]
    with subprocess.Popen(command, env=clean_env(), stderr=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=60)[1]
    # the second where the signal came before Python had read the script
    assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM), error
    assert not tool.folder.exists()
    assert HOSTS.read_text() == hosts
    users = subprocess.run(["pgrep", "-f", str(tool.folder)], check=False, capture_output=True, text=True).stdout
    assert not [pid for pid in users.split() if alive(int(pid))]


@pytest.mark.full
def test_a_killed_start_is_cleaned_by_down(tool):
    runs_here()
    with subprocess.Popen([str(SCRIPT), "up", "--dir", str(tool.folder)], env=clean_env()) as process:
        poll((tool.folder / "munge.sock").exists, 20, "the start is half done")
        process.kill()
    pids = tool.pids().values()
    tool.good("down")
    assert not [pid for pid in pids if alive(pid)]
    assert not tool.folder.exists()


def test_down_does_not_end_a_process_that_only_has_the_pid(tool):
    tool.folder.mkdir()
    with subprocess.Popen(["sleep", "30"]) as stranger:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        record = {"settings": {"dir": "", "mode": "plain"}, "boot": boot, "made": {},
                  "started": {"munged": [stranger.pid, "1"]}}  # fmt: skip
        (tool.folder / "cluster.json").write_text(json.dumps(record))
        tool.good("down")
        assert stranger.poll() is None
        stranger.kill()
    assert not tool.folder.exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tool):
    runs_here()
    tool.folder.mkdir()
    (tool.folder / "thesis.tex").write_text("42")
    assert tool("up").returncode == 1
    assert tool("down").returncode == 0
    assert (tool.folder / "thesis.tex").read_text() == "42"
    shutil.rmtree(tool.folder)
    tool("down")


def test_a_folder_with_too_long_a_name(tool):
    runs_here()
    long = Tool(tool.folder.parent / ("x" * 90))
    for command in ("check", "up"):
        result = long(command)
        assert result.returncode == 3
        assert "107 bytes" in result.stderr


def test_check_answers_in_a_line(tool):
    result = tool("check", "--bind", "--cpus", "256")
    assert result.returncode == 3
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.full
def test_a_plain_user_can_have_a_cluster(tool):
    """All of it, with accounting, as somebody without any privilege."""
    runs_here("--mode", "plain")
    if os.geteuid() != 0 or not shutil.which("runuser"):
        pytest.skip("only root can try it as another user")
    base = tool.folder.parent
    shutil.copy(SCRIPT, base / "slurm-cluster")
    base.chmod(0o755 | stat.S_ISVTX | 0o022)
    user = Tool(tool.folder, (shutil.which("runuser"), "-u", "nobody", "--"))
    user.script = base / "slurm-cluster"
    system = {"PATH": "/usr/local/bin:/usr/bin:/bin", "cwd": base}
    if user("--help", **system).returncode:
        pytest.skip("nobody cannot run a Python 3.11 here")
    try:
        user.good("up", "--nodes", "2", "--gpus", "1", timeout=120, **system)
        out = user.good("exec", "srun", "-t1", "-N2", "--gpus-per-node=1", "id", "-un", **system)
        assert out == "nobody\n" * 2
        poll(lambda: "COMPLETED" in user.good("exec", "sacct", "-nX", "-o", "state", **system), 20, "it is accounted")
    finally:
        user.good("down", **system)
