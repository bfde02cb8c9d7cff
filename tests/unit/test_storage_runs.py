"""Folders, files and lines: what is on the disk when writing fails, and what a reader finds."""

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_oracle import ideal

from hpcpar import records, storage
from hpcpar.errors import InputError, StorageError
from hpcpar.records import Event
from hpcpar.runs import (
    BatchFolder,
    BatchLine,
    RunFolder,
    StudyFolder,
    find_studies,
    remember_study,
    remembered_studies,
    runs_root,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------- whole files

STEPS = ["write", "fchmod", "fsync", "close"]


def failing(monkeypatch, step, error):
    """Make one step of writing a file fail, when it has done half of its work."""
    if step == "rename":
        monkeypatch.setattr(storage.Path, "rename", lambda *_: (_ for _ in ()).throw(error))
        return
    real = getattr(os, step)

    def fail(*arguments):
        if step == "write":
            real(arguments[0], bytes(arguments[1])[:3])
        if step == "close":
            real(*arguments)
        raise error

    monkeypatch.setattr(storage.os, step, fail)


@pytest.mark.parametrize("step", [*STEPS, "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, number):
    path = tmp_path / "file"
    storage.write_file(path, b"old")
    with monkeypatch.context() as patch:
        failing(patch, step, OSError(number, os.strerror(number)))
        with pytest.raises(StorageError, match=os.strerror(number)) as caught:
            storage.write_file(path, b"new content", mode=0o640)
    assert caught.value.exit_code == 2
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["file"])


@pytest.mark.parametrize("step", [*STEPS, "rename"])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    storage.write_file(path, b"old")
    with monkeypatch.context() as patch:
        failing(patch, step, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            storage.write_file(path, b"new content", mode=0o640)
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["file"])


def test_a_writer_that_is_killed_before_the_rename_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    storage.write_file(path, b"old")
    code = """
import os, sys, pathlib
from hpcpar import storage
storage.Path.rename = lambda *_: os._exit(9)
storage.write_file(pathlib.Path(sys.argv[1]), b"new content")
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60)
    assert (done.returncode, path.read_bytes()) == (9, b"old")


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(storage.os, "write", lambda descriptor, content: real(descriptor, bytes(content)[:7]))
    storage.write_file(tmp_path / "file", b"x" * 100)
    assert (tmp_path / "file").read_bytes() == b"x" * 100


def test_files_and_folders_are_private(tmp_path):
    old = os.umask(0)
    try:
        storage.make_folder(tmp_path / "a" / "b")
        storage.write_file(tmp_path / "a" / "b" / "file", b"")
        storage.append_line(tmp_path / "a" / "b" / "lines", b"x")
    finally:
        os.umask(old)
    assert [mode(tmp_path / part) for part in ("a", "a/b", "a/b/file", "a/b/lines")] == [0o700, 0o700, 0o600, 0o600]


@pytest.mark.parametrize("exist_ok", [True, False])
@pytest.mark.parametrize("path", ["/proc/x", "/proc/x/y"])
def test_a_folder_where_none_can_be_is_a_storage_error(path, exist_ok):
    with pytest.raises(StorageError, match=f"{path}: cannot write: No such file or directory"):
        storage.make_folder(Path(path), exist_ok=exist_ok)


def test_a_folder_that_must_be_new_is_refused_when_it_is_there(tmp_path):
    with pytest.raises(FileExistsError):
        storage.make_folder(tmp_path, exist_ok=False)


@pytest.mark.parametrize("below", ["file/x", "file/x/y"])
def test_a_file_in_the_way_of_a_folder_is_a_storage_error(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write: .*is not a folder"):
        storage.make_folder(tmp_path / below)


# ---------------------------------------------------------------- lines


@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda line: b"\n" not in line), max_size=6))
def test_lines_come_back_as_they_were_appended(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "file"
    for line in lines:
        storage.append_line(path, line)
    assert (path.read_bytes() if lines else b"") == b"".join(line + b"\n" for line in lines)


@settings(max_examples=40)
@given(kept=st.integers(0, 2), cut=st.integers(1, 30), more=st.integers(1, 3))
def test_a_torn_line_costs_that_line_alone(tmp_path_factory, kept, cut, more):
    path = tmp_path_factory.mktemp("torn") / "file"
    for number in range(kept):
        records.append(path, Event(time=number, kind="before"))
    with path.open("ab") as file:
        file.write(b'{"time":99.0,"kind":"torn","host":"n1"}'[:cut])
    for number in range(more):
        records.append(path, Event(time=number, kind="after"))
    reading = records.read_lines(path, Event)
    assert ([event.kind for event in reading.records], reading.rejected) == (["before"] * kept + ["after"] * more, 1)


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_line_that_could_not_be_written_spoils_none_after_it(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    with monkeypatch.context() as patch:
        failing(patch, step, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(StorageError):
            records.append(path, Event(time=1, kind="lost"), durable=True)
    records.append(path, Event(time=2, kind="kept"))
    assert records.read_lines(path, Event).records[-1].kind == "kept"


def append_many(path, number):
    for _ in range(50):
        records.append(path, Event(time=number, kind="x" * 200))


def test_lines_of_several_writers_do_not_mix(tmp_path):
    path = tmp_path / "file"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_many, args=(path, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    reading = records.read_lines(path, Event)
    assert (len(reading.records), reading.rejected) == (150, 0)


def test_the_tail_of_a_long_file_is_whole_records(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"".join(b'{"time":%d,"kind":"x"}\n' % number for number in range(2000)))
    assert [event.time for event in records.tail_lines(path, Event, 110)] == [1996, 1997, 1998, 1999]


def test_records_of_a_newer_version_are_read_without_their_new_fields():
    line = b'{"schema":2,"time":1,"kind":"start","colour":"blue"}'
    (event,) = records.parse_lines(line, Event).records
    assert (event.kind, event.schema) == ("start", 2)


# ---------------------------------------------------------------- no room, no right


def in_child(body, *arguments, limit=None):
    """Run code in a process of its own; it prints the exit code of the StorageError that it meets."""
    code = f"""
import sys, pathlib
from hpcpar import storage
from hpcpar.errors import StorageError
path = pathlib.Path(sys.argv[1])
try:
    {body}
except StorageError as error:
    print(error.exit_code)
"""
    set_limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=set_limit,
    )
    return done.stdout.strip()


def test_a_file_that_outgrows_its_limit_is_a_storage_error_and_leaves_nothing(tmp_path):
    # Python ignores SIGXFSZ, so that the write fails with EFBIG in the middle of the content.
    assert in_child("storage.write_file(path, b'x' * 10000)", tmp_path / "file", limit=4096) == "2"
    assert names(tmp_path) == []


def test_a_line_that_outgrows_its_limit_is_a_storage_error(tmp_path):
    assert in_child("storage.append_line(path, b'x' * 10000)", tmp_path / "file", limit=4096) == "2"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB, where the user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k,nr_inodes=40", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, timeout=20).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a small file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], timeout=20, check=True)


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(small_disk):
    with pytest.raises(StorageError, match="No space left"):
        storage.write_file(small_disk / "file", b"x" * 200_000)
    assert names(small_disk) == []


@pytest.fixture
def read_only(tmp_path):
    """A folder in which nobody may write, root included."""
    place = tmp_path / "fixed"
    place.mkdir()
    if os.geteuid() != 0:
        place.chmod(0o500)
        yield place
        place.chmod(0o700)
        return
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(place)], capture_output=True, timeout=20
        )
    except OSError:
        pytest.skip("may not mount here")
    if mounted.returncode:
        pytest.skip("may not mount here")
    yield place
    subprocess.run(["umount", "-l", str(place)], timeout=20, check=True)


@pytest.mark.parametrize(
    "act",
    [
        lambda place: storage.write_file(place / "file", b"x"),
        lambda place: storage.append_line(place / "file", b"x"),
        lambda place: storage.make_folder(place / "a" / "b"),
        lambda place: storage.make_folder(place / "a", exist_ok=False),
    ],
    ids=["file", "line", "folders", "new folder"],
)
def test_a_folder_that_may_not_be_written_is_a_storage_error(read_only, act):
    with pytest.raises(StorageError) as caught:
        act(read_only)
    assert caught.value.exit_code == 2
    assert "--runs" in str(caught.value)
    assert names(read_only) == []


# ---------------------------------------------------------------- batches


def test_a_batch_that_is_there_already_belongs_to_somebody_else(tmp_path):
    BatchFolder(tmp_path / "b").create("#!/bin/bash\n", ["r1"])
    with pytest.raises(InputError, match="another process"):
        BatchFolder(tmp_path / "b").create("#!/bin/bash\n", ["r1"])


def test_a_batch_is_three_files_at_most_and_private(tmp_path):
    batch = BatchFolder(tmp_path / "b")
    batch.create("#!/bin/bash\n", ["r1", "r2"])
    assert names(batch.path) == ["job.sh", "logs", "manifest.jsonl"]
    assert (mode(batch.path), mode(batch.script_path), mode(batch.manifest_path)) == (0o700, 0o700, 0o600)


def test_a_manifest_reads_back(tmp_path):
    batch = BatchFolder(tmp_path / "b")
    batch.create("", ["r1", "r2"])
    batch.journal(BatchLine(kind="intent", time=1.0))
    batch.journal(BatchLine(kind="accepted", time=2.0, job_id="7"))
    found = batch.read()
    assert (found.runs, found.intent.time, found.accepted.job_id, found.refused) == ({0: "r1", 1: "r2"}, 1.0, "7", None)


# ---------------------------------------------------------------- studies


@pytest.fixture
def tree(tmp_path):
    """Two studies in a runs folder."""
    for study in ("one", "two"):
        ideal(nodes=(1,), repeats=2, study=study).write(tmp_path / "runs")
    return tmp_path / "runs"


def found_names(path):
    return [study.name for study in find_studies(path)]


def test_studies_are_found_from_the_runs_folder_from_a_study_and_from_a_run(tree):
    run = StudyFolder(tree / "two").runs()[0]
    assert (found_names(tree), found_names(tree / "two"), found_names(run.path)) == (["one", "two"], ["two"], ["two"])


def test_what_is_no_study_is_left_alone(tree):
    (tree / "notes").mkdir()
    (tree / "readme.txt").touch()
    (tree / ".hidden" / "run").mkdir(parents=True)
    (tree / ".hidden" / "run" / "spec.json").write_text("{}")
    assert found_names(tree) == ["one", "two"]


def test_links_out_of_the_tree_are_not_followed(tree, tmp_path):
    outside = ideal(nodes=(1,), repeats=1, study="outside").write(tmp_path / "elsewhere")[0]
    (tree / "linked").symlink_to(outside.path.parent)
    (tree / "one" / "linked-r1").symlink_to(outside.path)
    assert found_names(tree) == ["one", "two"]
    assert len(StudyFolder(tree / "one").runs()) == 2


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_folder_is_bad_input(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a folder"):
        find_studies(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["too long", "NUL"])
def test_a_path_that_no_file_system_takes_is_bad_input(tmp_path, name):
    with pytest.raises(InputError, match="not a folder"):
        find_studies(tmp_path / name)


def test_batches_are_no_runs(tree):
    BatchFolder(tree / "one" / "batches" / "b").create("", ["x"])
    assert len(StudyFolder(tree / "one").runs()) == 2


def test_attempts_come_in_order_of_their_first_event_whatever_their_names(tmp_path):
    folder = RunFolder(tmp_path)
    for attempt, began in (("9.0", 3.0), ("10.0", 1.0), ("10.1", 2.0)):
        records.append(folder.events_path(attempt), Event(time=began, kind="start"))
    assert folder.attempts() == ["10.0", "10.1", "9.0"]


# ---------------------------------------------------------------- the index of studies


def test_studies_are_remembered_the_latest_first_and_once(tree):
    for name in ("one", "two", "one"):
        remember_study(StudyFolder(tree / name))
    assert [study.name for study in remembered_studies()] == ["one", "two"]


def test_a_study_that_is_gone_is_forgotten(tree, tmp_path):
    remember_study(StudyFolder(tree / "one"))
    (tree / "one").rename(tmp_path / "elsewhere")
    assert list(remembered_studies()) == []


def test_damage_to_the_index_costs_the_damaged_lines(tree, isolation):
    remember_study(StudyFolder(tree / "one"))
    with (isolation / "state" / "studies.jsonl").open("ab") as file:
        file.write(b'{"path": 1}\n{"path":"a\\u0000b","time":1}\n{"pa')
    remember_study(StudyFolder(tree / "two"))
    assert [study.name for study in remembered_studies()] == ["two", "one"]


@pytest.mark.parametrize(
    ("explicit", "variable", "profile", "chosen"),
    [("/a", "/b", "/c", "/a"), ("", "/b", "/c", "/b"), ("", "", "/c", "/c"), ("", "/b", "", "/b")],
)
def test_the_flag_wins_over_the_variable_and_that_over_the_profile(monkeypatch, explicit, variable, profile, chosen):
    monkeypatch.setenv("HPCPAR_RUNS", variable)
    assert str(runs_root(explicit, profile)) == chosen


def test_the_default_runs_folder_is_here(monkeypatch, tmp_path):
    monkeypatch.delenv("HPCPAR_RUNS")
    monkeypatch.chdir(tmp_path)
    assert runs_root("") == tmp_path / "runs"


def test_variables_and_the_home_folder_are_filled_in(monkeypatch, isolation):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    assert str(runs_root("$SCRATCH/runs")) == "/scratch/me/runs"
    assert runs_root("~/runs") == isolation / "home" / "runs"


def test_the_home_of_nobody_is_no_traceback():
    assert runs_root("~nobody-of-that-name/runs").name == "runs"
