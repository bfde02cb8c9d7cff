"""submitit's traps, one test each: first what submitit itself does, so that we notice when it changes, then what we do.

sbatch and srun are stubs here, and nowhere else: what is asked is in which order submitit calls them and what it hands
over. tests/slurm asks a real Slurm.
"""

import errno
import json
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import pytest
from submitit.core import core
from submitit.core.utils import DelayedSubmission
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

from hpcpar.cli import main
from hpcpar.control import executors, submit
from hpcpar.control.executors import SlurmBatchExecutor
from hpcpar.decode import decode
from hpcpar.errors import InputError, NoSchedulerError, SchedulerError, StorageError, UnansweredError
from hpcpar.profile import ClusterProfile
from hpcpar.runs import BatchFolder, StudyFolder, batch_tag
from hpcpar.spec import Study

JOB = "7"
SBATCH = """
[[ $1 != --test-only ]] || exit 0
shopt -s nullglob globstar dotglob
number=$(cat "{out}/calls" 2>/dev/null || echo 0)
echo $((number + 1)) >"{out}/calls"
cat "${{!#}}" >"{out}/script.$number"
printf '%s\\n' "{watched}"/** >"{out}/files.$number"
if [[ $1 == --parsable ]]; then echo 7; else echo "Submitted batch job 7"; fi
"""


class Scheduler:
    """What the stub of sbatch noted at each of its calls."""

    def __init__(self, out):
        self.out = out

    @property
    def calls(self):
        return int((self.out / "calls").read_text()) if (self.out / "calls").exists() else 0

    def script(self, number=0):
        return (self.out / f"script.{number}").read_text()

    def files(self, number=0):
        """The paths that were there when sbatch was called."""
        return set((self.out / f"files.{number}").read_text().splitlines())


@pytest.fixture
def scheduler(commands, tmp_path):
    out, watched = tmp_path / "out", tmp_path / "place"
    out.mkdir()
    watched.mkdir()
    commands.borrow("cat", "bash")
    commands.write("sbatch", SBATCH.format(out=out, watched=watched))
    commands.write("srun", "exit 1")
    commands.write("squeue", "exit 0")
    commands.write("sacct", "exit 0")
    return Scheduler(out)


@pytest.fixture
def place(tmp_path):
    """The folder that the stub looks into."""
    return tmp_path / "place"


def prepared(root, repeats=3):
    profile = {
        "schema": 1, "name": "site", "description": "a cluster", "scheduler": "slurm", "default_node_type": "cpu",
        "node_types": {"cpu": {"ranks_per_node": 2, "cpus_per_rank": 3}},
    }  # fmt: skip
    study = Study(name="study", workload="mlp", repeats=repeats)
    request = submit.Request(study, decode(ClusterProfile, profile, "site.toml"), "study.toml", root, "1")
    return submit.prepare(request)


def submitted(root, repeats=3):
    """Submit a study of one array; return its batch."""
    assert submit.submit(prepared(root, repeats)) == [JOB]
    (batch,) = StudyFolder(root / "study").batches()
    return batch


def of_main():
    """A function of a script: one that only its source knows."""
    function = eval("lambda path: path")
    function.__module__ = "__main__"
    return function


# ---------------------------------------------------------------- the traps


class WithTemplate(SlurmExecutor):
    """A subclass with a script of its own, as anybody would write it."""

    def _make_submission_file_text(self, command, uid):
        return "#!/bin/bash\n# our own template\n"


def test_arrays_are_made_by_a_plain_executor_that_has_lost_the_template(scheduler, place):
    theirs = WithTemplate(place / "theirs")
    theirs.submit(print, 1)
    theirs.map_array(print, [1, 2])
    assert ["our own template" in scheduler.script(number) for number in (0, 1)] == [True, False]

    batch = submitted(place / "ours")
    assert scheduler.script(2) == batch.script_path.read_text()
    assert "-m hpcpar.worker" in scheduler.script(2)
    assert "submitit.core" not in scheduler.script(2)


def test_sbatch_is_called_before_the_pickle_has_the_name_under_which_the_job_looks_for_it(scheduler, place):
    theirs = SlurmExecutor(place / "theirs")
    theirs._throttling = 0
    job = theirs.submit(print, 1)
    assert str(job.paths.submitted_pickle) not in scheduler.files()
    assert job.paths.submitted_pickle.exists()

    batch = submitted(place / "ours")
    needed = {batch.script_path, batch.payload_path, batch.manifest_path, batch.logs}
    specs = {batch.study.run(name).spec_path for name in batch.read().runs.values()}
    assert {str(path) for path in needed | specs} <= scheduler.files(1)


def test_each_array_task_has_a_pickle_of_its_own(scheduler, place):
    theirs = SlurmExecutor(place / "theirs")
    theirs._throttling = 0
    theirs.map_array(print, [1, 2, 3])
    assert len(list((place / "theirs").glob("*submitted.pkl"))) == 3

    batch = submitted(place / "ours", repeats=5)
    assert len(list(batch.path.rglob("*.pkl"))) == 1
    assert scheduler.calls == 2


def test_the_constructor_raises_a_runtime_error_without_srun(commands, place):
    with pytest.raises(RuntimeError, match="srun"):
        SlurmExecutor(place)

    commands.write("sbatch", "echo 7")
    with pytest.raises(NoSchedulerError, match="srun") as caught:
        SlurmBatchExecutor(BatchFolder(place), "", 0.0)
    assert caught.value.exit_code == 2


def test_a_dry_run_does_not_touch_the_executor(commands, place, monkeypatch, capsys):
    with pytest.raises(RuntimeError):
        SlurmExecutor(place)

    monkeypatch.setitem(sys.modules, "submitit", None)  # importing it would fail
    monkeypatch.setitem(sys.modules, "hpcpar.control.executors", None)
    assert main(["submit", "--cluster", "perlmutter", "--strategy", "hybrid", "--nodes", "4", "--dry-run"]) == 0
    assert "#SBATCH" in capsys.readouterr().out


def test_a_folder_with_the_jobs_number_is_made_only_after_sbatch_has_returned(scheduler, place):
    theirs = SlurmExecutor(place / "theirs" / "%j")
    theirs.submit(print, 1)
    assert str(place / "theirs" / JOB) not in scheduler.files()
    assert (place / "theirs" / JOB).is_dir()

    batch = submitted(place / "ours%j")
    assert str(batch.logs) in scheduler.files(1)
    assert batch.path.is_relative_to(place / "ours%j")
    assert not (place / f"ours{JOB}").exists()


def strings_of(path):
    return {argument for _, argument, _ in pickletools.genops(path.read_bytes()) if isinstance(argument, str)}


def test_the_pickle_holds_state_and_code_where_the_payload_holds_a_name(scheduler, place):
    theirs = SlurmExecutor(place / "theirs")
    theirs._throttling = 0
    job = theirs.submit(of_main(), "/a/path/of/this/run")
    assert {"_make_function", "CodeType", "/a/path/of/this/run"} <= strings_of(job.paths.submitted_pickle)

    batch = submitted(place / "ours")
    strings = strings_of(batch.payload_path)
    assert {"hpcpar.worker.entry", "run"} <= strings
    assert not [text for text in strings if "/" in text or "make_function" in text or "CodeType" in text]
    # It knows neither runs nor folders: the same bytes for every study.
    assert batch.payload_path.read_bytes() == submitted(place / "others", repeats=2).payload_path.read_bytes()


def test_loading_the_payload_needs_no_torch(scheduler, place):
    batch = submitted(place / "ours")
    code = """
import json, sys
sys.modules["torch"] = None
from submitit.core.utils import DelayedSubmission
payload = DelayedSubmission.load(sys.argv[1])
print(json.dumps([payload.function.__module__, payload.function.__qualname__, payload.args, payload.kwargs]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, batch.payload_path], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert json.loads(done.stdout) == ["hpcpar.worker.entry", "run", [], {}], done.stderr


class Canary:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_asking_a_job_unpickles_what_lies_in_its_folder(scheduler, place, monkeypatch, capsys):
    hostile = pickle.dumps(Canary(place / "canary"))
    job = SlurmJob(folder=place / "theirs", job_id=JOB)
    job.paths.submitted_pickle.parent.mkdir(parents=True)
    job.paths.submitted_pickle.write_bytes(hostile)
    with pytest.raises(AssertionError, match="Loaded object"):
        job.submission()
    assert (place / "canary").exists()
    (place / "canary").unlink()

    batch = submitted(place / "ours")
    for name in ("payload.pkl", f"{JOB}_submitted.pkl", f"{JOB}_0_result.pkl"):
        (batch.path / name).write_bytes(hostile)

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(DelayedSubmission, "load", refuse)
    root = str(place / "ours")
    assert [main(["status", root]), main(["status", root, "--json"]), main(["collect", root])] == [0, 0, 1]
    assert not (place / "canary").exists()


def test_single_submits_sleep_a_fifth_of_a_second_each(scheduler, place, monkeypatch):
    assert SlurmExecutor(place / "theirs")._throttling == 0.2

    def refuse(_):
        raise AssertionError("slept")

    monkeypatch.setattr(core.PicklingExecutor, "_throttle", refuse)
    with pytest.raises(AssertionError, match="slept"):
        SlurmExecutor(place / "theirs").submit(print, 1)
    submitted(place / "ours", repeats=10)
    assert scheduler.calls == 1


def srun_line(script):
    (line,) = [line for line in script.splitlines() if line.startswith("srun ")]
    return line


def test_the_srun_line_says_no_number_of_cpus(scheduler, place):
    theirs = SlurmExecutor(place / "theirs")
    theirs.update_parameters(cpus_per_task=3)
    theirs.submit(print, 1)
    assert "--cpus-per-task=3" in scheduler.script()
    assert "cpus-per-task" not in srun_line(scheduler.script())

    submitted(place / "ours")
    assert "--cpus-per-task=3" in srun_line(scheduler.script(1))


def test_a_workload_characterisation_key_is_sent_that_some_sites_refuse(scheduler, place):
    SlurmExecutor(place / "theirs").submit(print, 1)
    assert "--wckey=submitit" in scheduler.script()

    submitted(place / "ours")
    assert "wckey" not in scheduler.script(1)


def test_a_line_break_in_a_value_becomes_a_line_of_the_script(scheduler, place):
    theirs = SlurmExecutor(place / "theirs")
    theirs.update_parameters(comment="a\ntouch canary")
    theirs.submit(print, 1)
    assert any(line.startswith("touch canary") for line in scheduler.script().splitlines())
    # tests/unit/test_render.py shows that ours refuses it by name


# ---------------------------------------------------------------- the journal around sbatch


def test_a_refused_batch_says_so_and_its_runs_stay_planned(scheduler, commands, place):
    refusal = "echo 'sbatch: error: Invalid account' >&2; exit 1"
    commands.write("sbatch", f"[[ $1 != --test-only ]] || exit 0; {refusal}")
    with pytest.raises(SchedulerError, match="Invalid account"):
        submit.submit(prepared(place / "ours"))
    (batch,) = StudyFolder(place / "ours" / "study").batches()
    assert "Invalid account" in batch.read().refused.error
    assert main(["status", str(place / "ours")]) == 0
    assert len(prepared(place / "ours").batches) == 1


SILENCE = {
    "no answer in time": "exec sleep 600",
    "no job id": "echo 'Welcome to the cluster'",
    "the answer got lost": "echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1",
    "killed": "kill -9 $$",
}
"""What sbatch may do after the request went out: the job may exist."""


@pytest.mark.parametrize("script", SILENCE.values(), ids=SILENCE)
def test_a_job_whose_id_nobody_heard_is_adopted_and_not_sent_again(scheduler, commands, place, monkeypatch, script):
    monkeypatch.setattr(executors.slurm, "TIMEOUT_S", 0.5 if "sleep" in script else 30)
    commands.borrow("sleep")
    commands.write("sbatch", script)
    with pytest.raises(UnansweredError, match="may have been accepted all the same"):
        submit.submit(prepared(place / "ours"))
    study = StudyFolder(place / "ours" / "study")
    (batch,) = study.batches()
    assert (batch.read().accepted, batch.read().refused) == (None, None)
    with pytest.raises(InputError, match="may still reach the scheduler"):
        submit.submit(prepared(place / "ours"))

    name = batch_tag("study", batch.key)
    commands.write("squeue", f"echo '7|[0-2]|PENDING|0:00|N/A|Priority|{name}|'")
    again = prepared(place / "ours")
    assert (again.batches, again.skipped) == ((), {"submitted": 3})
    assert batch.read().accepted.job_id == JOB


def test_a_disk_that_is_full_when_the_payload_is_written_is_told(scheduler, place, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(executors.DelayedSubmission, "dump", full)
    with pytest.raises(StorageError, match=r"payload.pkl: cannot write: No space left on device"):
        submit.submit(prepared(place / "ours"))
    assert scheduler.calls == 0
    assert len(prepared(place / "ours").batches) == 1, "the runs stay planned"


def test_the_job_id_is_found_among_what_a_site_prints_around_it(commands):
    commands.write("sbatch", "echo 'Account: 4 hours left'; echo '4711;alpha'; echo; echo 'have a nice day'")
    assert executors.slurm.sbatch("job.sh") == "4711"


def test_the_intent_is_on_the_disk_before_sbatch_is_called(scheduler, place, monkeypatch):
    seen = []
    real = executors.slurm.sbatch

    def look(script):
        seen.append(BatchFolder(Path(script).parent).read())
        return real(script)

    monkeypatch.setattr(executors.slurm, "sbatch", look)
    submitted(place / "ours")
    assert (seen[0].intent is not None, seen[0].accepted) == (True, None)
