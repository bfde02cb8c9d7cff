"""The user's code is copied at submission: what is copied, what never is, and that the job runs the copy."""

import os
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar import snapshot
from hpcpar.cli import main
from hpcpar.control import local_queue
from hpcpar.errors import InputError, StorageError
from hpcpar.runs import find_studies

REPOSITORY = Path(__file__).resolve().parents[2]


def write(folder, **files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def names(taken):
    return [name for name, _, _ in taken.files]


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["python", "train.py", "x.py"], 1),
        (["python3.12", "-u", "train.py"], 2),
        (["bash", "run.sh"], 1),
        (["./train", "a"], 0),
        (["train"], None),
        (["python", "-m", "train"], None),
        (["python", "-c", "print()"], None),
        (["python"], None),
        ([], None),
    ],
)
def test_which_word_of_a_command_line_is_the_program(words, place):
    assert snapshot.entry(words) == place


def test_code_and_settings_are_copied_and_nothing_hidden_foreign_or_large(tmp_path):
    code = write(
        tmp_path / "project", **{"train.py": "a", "pkg/util.py": "b", "pkg/config.yaml": "c", "model.npz": "d"}
    )
    write(
        code,
        **{".env": "TOKEN=1", ".git/config.py": "x", "__pycache__/t.py": "x", "venv/pyvenv.cfg": "", "venv/x.py": "x"},
    )
    write(code, **{"conda/conda-meta/x": "", "conda/y.py": "x", "runs/study/code/old.py": "x"})
    write(tmp_path, **{"elsewhere/outside.py": "x", "project/start": "#!/bin/sh"})
    (code / "link.py").symlink_to(tmp_path / "elsewhere" / "outside.py")
    (code / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(code / "pipe.py")
    assert names(snapshot.take(code / "train.py", code / "runs")) == ["pkg/config.yaml", "pkg/util.py", "train.py"]
    assert "start" in names(snapshot.take(code / "start", code / "runs")), "the program itself, whatever it is called"


def test_what_is_called_a_secret_is_left_out_and_said(tmp_path):
    secrets = ("credentials.json", "api_key.txt", "hf-token.txt", "my_secrets.yaml", "id_rsa.txt", "password.ini")
    code = write(tmp_path, **dict.fromkeys((*secrets, "tokenizer.json", "tokens.py", "train.py"), "x"))
    taken = snapshot.take(code / "train.py", tmp_path / "runs")
    assert names(taken) == ["tokenizer.json", "tokens.py", "train.py"]
    assert sorted(taken.left_out) == sorted(secrets)


@pytest.mark.parametrize(("limit", "value"), [("MAX_FILES", 2), ("MAX_BYTES", 9)])
def test_too_much_is_refused_with_both_ways_out(tmp_path, monkeypatch, limit, value):
    code = write(tmp_path, **{"a.py": "1234", "b.py": "1234", "c.py": "1234"})
    monkeypatch.setattr(snapshot, limit, value)
    with pytest.raises(InputError, match="too much to copy") as caught:
        snapshot.take(code / "a.py", tmp_path / "runs")
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path)
    assert "a folder of its own; or --no-snapshot" in problem.fix


trees = st.dictionaries(
    st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3}){0,2}\.py", fullmatch=True), st.binary(max_size=9), min_size=1
)


@given(trees, st.data())
def test_the_digest_is_that_of_what_lies_on_the_disk(tmp_path_factory, tree, data):
    folders = {str(parent) for name in tree for parent in Path(name).parents}
    tree = {name: content for name, content in tree.items() if name not in folders}
    study = tmp_path_factory.mktemp("study")
    files = tuple((name, tree[name], data.draw(st.booleans())) for name in sorted(tree))
    taken = snapshot.Snapshot(Path("/x"), files, ())
    snapshot.store(taken, study)
    snapshot.store(taken, study)
    assert snapshot.digest_of(taken.folder(study)) == taken.digest
    assert [path.name for path in (study / "code").iterdir()] == [taken.digest[:16]]
    victim = data.draw(st.sampled_from(sorted(tree)))
    (taken.folder(study) / victim).write_bytes(tree[victim] + b"!")
    assert snapshot.digest_of(taken.folder(study)) != taken.digest


def test_a_snapshot_is_private_and_whole_or_not_there(tmp_path, monkeypatch):
    code = write(tmp_path / "code", **{"a.py": "x", "sub/b.py": "y"})
    taken = snapshot.take(code / "a.py", tmp_path / "runs")
    snapshot.store(taken, tmp_path / "study")
    for path in [taken.folder(tmp_path / "study"), *taken.folder(tmp_path / "study").rglob("*")]:
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="cannot write: No space left on device"):
        snapshot.store(taken, tmp_path / "other")
    assert list((tmp_path / "other" / "code").iterdir()) == []


def test_a_command_line_keeps_its_folder_and_its_other_words(tmp_path, monkeypatch):
    code = write(tmp_path / "project", **{"train.py": "x", "data.txt": "d"})
    taken = snapshot.take(code / "train.py", tmp_path / "runs")
    snapshot.store(taken, tmp_path / "study")
    words = ["python", "train.py", "data.txt"]
    assert snapshot.located(words, str(code)) == words, "outside a job with a snapshot"
    monkeypatch.setenv(snapshot.FOLDER_VARIABLE, str(taken.folder(tmp_path / "study")))
    monkeypatch.setenv(snapshot.ROOT_VARIABLE, str(code))
    copy = taken.folder(tmp_path / "study") / "train.py"
    assert snapshot.located(words, str(code)) == ["python", str(copy), "data.txt"]
    assert snapshot.located(["python", "/usr/other.py"], str(code)) == ["python", "/usr/other.py"]
    assert snapshot.found(code / ".." / ".." / "etc" / "passwd") == code / ".." / ".." / "etc" / "passwd"


# ---------------------------------------------------------------- submit


@pytest.fixture
def not_started(monkeypatch):
    monkeypatch.setattr(local_queue, "start", lambda: None)


def _study(isolation):
    (study,) = find_studies(isolation / "runs")
    return study


def test_submit_copies_once_however_many_runs_and_batches(not_started, isolation, tmp_path, monkeypatch, capsys):
    write(tmp_path, **{"train.py": "print(1)", "token.txt": "x"})
    monkeypatch.chdir(tmp_path)
    submit = ("submit", "--cluster", "local", "--name", "s", "--nodes", "1", "2", "--repeats", "2")
    assert main([*submit, "--dry-run", "--", "python", "train.py"]) == 0
    assert "HPCPAR_CODE=" in capsys.readouterr().out
    assert not (isolation / "runs").exists()
    assert main([*submit, "--", "python", "train.py"]) == 0
    assert "left out of the snapshot: token.txt" in capsys.readouterr().err
    study = _study(isolation)
    (copy,) = (study.path / "code").iterdir()
    assert [path.name for path in copy.iterdir()] == ["train.py"]
    digests = {line.code_sha256 for run in study.runs() for line in run.submissions()}
    assert digests == {snapshot.digest_of(copy)}
    assert len(study.runs()) == 4, "the folder of snapshots is no run"


def test_without_a_snapshot_nothing_is_copied_nor_named(not_started, isolation, tmp_path, monkeypatch):
    write(tmp_path, **{"train.py": "print(1)"})
    monkeypatch.chdir(tmp_path)
    submit = ("submit", "--cluster", "local", "--name", "s", "--no-snapshot", "--", "python", "train.py")
    assert main([*submit]) == 0
    study = _study(isolation)
    assert not (study.path / "code").exists()
    assert "HPCPAR_CODE" not in study.batches()[0].script_path.read_text()


@pytest.mark.full
def test_what_is_edited_after_the_submission_changes_no_queued_job(not_started, isolation, tmp_path, monkeypatch):
    code = write(
        tmp_path / "mine",
        **{"train.py": "import part\nopen('out', 'a').write(part.WORD)\n", "part.py": "WORD = 'old '"},
    )
    shutil.copy(REPOSITORY / "examples" / "own_workload.py", code / "line.py")
    monkeypatch.chdir(code)
    assert main(["submit", "--cluster", "local", "--name", "prog", "--", "python", "train.py"]) == 0
    own = ("--workload", "line.py:LINE", "--steps", "3", "--name", "own")
    assert main(["submit", "--cluster", "local", *own]) == 0
    write(code, **{"part.py": "WORD = 'new '", "line.py": "raise SystemExit('broken since')"})
    assert local_queue.drain() == 2
    assert (code / "out").read_text() == "old "
    for study in find_studies(isolation / "runs"):
        (run,) = study.runs()
        record = run.record()
        assert record is not None, study
        (copy,) = (study.path / "code").iterdir()
        assert record.code_sha256 == run.submissions()[0].code_sha256 == snapshot.digest_of(copy)
        assert not any("has changed since" in note for note in record.notes)
    assert main(["submit", "--cluster", "local", "--name", "prog", "--again", "--", "python", "train.py"]) == 0
    assert local_queue.drain() == 1
    assert (code / "out").read_text() == "old new "
