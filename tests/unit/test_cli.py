"""The command line, called as a function: what it prints where, and with which code it ends."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_oracle import Truth, ideal

from hpcpar import assets, registry, runs
from hpcpar.cli import VERBS, main, printable
from hpcpar.cli.variadic import VariadicCommand
from hpcpar.errors import HpcparError, SchedulerError
from hpcpar.runs import StudyFolder

SMALL = ["--workload", "llama-tiny", "--strategy", "ddp", "--nodes", "1"]
PROFILE = """
schema = 1
name = "mine"
description = "a cluster"
scheduler = "slurm"
default_node_type = "cpu"
[node_types.cpu]
ranks_per_node = 2
"""


@pytest.fixture
def run(capfd):
    """Call the command line; return its exit code, stdout and stderr."""

    def call(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder of HPCPAR_PATH with one Slurm cluster, "mine"."""
    folder = tmp_path / "mine"
    for kind in ("clusters", "jobs"):
        (folder / kind).mkdir(parents=True)
    (folder / "clusters" / "mine.toml").write_text(PROFILE)
    monkeypatch.setenv("HPCPAR_PATH", str(folder))
    return folder


@pytest.fixture
def study(isolation):
    """A study in the runs folder."""
    return StudyFolder(ideal(nodes=(1, 2), repeats=2).write(isolation / "runs")[0].path.parent)


def dry_run(run, *arguments):
    """Plan a dry run and return what it would submit."""
    code, out, err = run("submit", "--dry-run", "--json", *arguments)
    assert code == 0, err
    return [spec for batch in json.loads(out)["batches"] for spec in batch["runs"]]


# ---------------------------------------------------------------- empty values


@pytest.mark.parametrize(
    ("flag", "message"), [("--name", "flags: name: must be"), ("--mesh", "--mesh: is empty\n    AXIS=SIZE")]
)
def test_an_empty_value_is_refused_and_is_not_the_default(run, flag, message):
    code, out, err = run("submit", "--cluster", "local", *SMALL, flag, "", "--dry-run")
    assert (code, out) == (2, "")
    assert message in err


# ---------------------------------------------------------------- streams


def in_a_shell(line):
    command = f'exec "{sys.executable}" -m hpcpar {line}'
    return subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("line", ["list clusters", "status", "collect --offline --format csv"])
def test_an_answer_that_finds_no_room_is_an_error_in_a_line(study, line):
    done = in_a_shell(f"{line} >/dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: cannot write the answer: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", ["status >&-", "collect --offline >&-", "show cluster generic 2>&- >/dev/null"])
def test_a_closed_stream_is_no_error(study, line):
    done = in_a_shell(line)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_shows_examples_of_its_verb(run, verb):
    code, out, _ = run(verb, "--help")
    examples = out.partition("Examples:")[2]
    assert code == 0
    assert f"hpcpar {verb}" in examples


def test_the_help_of_the_group_lists_every_verb_with_a_line_and_examples(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"{verb} " in out and about.split()[0] in out for verb, about in VERBS.items())
    assert "Examples:" in out


@pytest.mark.parametrize("verb", VERBS)
def test_the_first_line_of_a_verbs_help_is_a_whole_sentence(run, verb):
    _, out, _ = run(verb, "--help")
    sentence = out.split("\n\n")[1].strip()
    assert sentence[0].isupper()
    assert sentence.endswith(".")


def examples():
    """Every command that a help shows."""
    return sorted({line for arguments in ([], *([verb] for verb in VERBS)) for line in _commands(_help_of(arguments))})


def _help_of(arguments):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        main([*arguments, "--help"])
    return text.getvalue()


def _commands(text):
    """The example lines, without what is said about them (three blanks or more before it) and without redirections."""
    for line in text.partition("Examples:")[2].splitlines():
        if line.strip().startswith("hpcpar "):
            yield line.strip().split("   ")[0].split(" >")[0].strip()


@pytest.mark.parametrize("line", [line for line in examples() if line.startswith("hpcpar submit")])
def test_every_example_of_submit_can_be_planned(run, tmp_path, monkeypatch, line):
    checkout = assets.builtin_folder("jobs").parent
    monkeypatch.chdir(checkout)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("text " * 10_000)
    words = [
        word.replace("corpus.txt", str(corpus)) for word in line.split()[1:] if word not in ("--wait", "--dry-run")
    ]
    cluster = [] if "--cluster" in words else ["--cluster", "local"]
    assert dry_run(run, *words[1:], *cluster)


def test_the_version_is_that_of_the_package(run):
    import hpcpar

    assert run("--version") == (0, f"hpcpar {hpcpar.__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_variable_that_answers_them(run, shell):
    code, out, _ = run("completion", shell)
    assert code == 0
    assert "_HPCPAR_COMPLETE" in out


def test_a_completion_script_for_bash_parses(run):
    _, out, _ = run("completion", "bash")
    assert subprocess.run(["bash", "-n"], input=out, text=True, timeout=30).returncode == 0


@pytest.mark.parametrize(
    ("words", "offered"), [("hpcpar sub", "submit"), ("hpcpar submit --cluster perl", "perlmutter")]
)
def test_names_are_completed(monkeypatch, capsys, words, offered):
    monkeypatch.setenv("_HPCPAR_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    done = subprocess.run(
        [sys.executable, "-m", "hpcpar"], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert f"plain,{offered}" in done.stdout


# ---------------------------------------------------------------- exit codes


def test_success_is_0(run, study):
    assert run("status")[0] == 0


def test_a_failed_run_is_1(run, isolation):
    ideal(repeats=1, nodes=(1,), failures={("ddp", 1, 1): "python_error"}).write(isolation / "runs")
    assert run("status")[0] == 1


def test_a_missing_result_is_1_for_collect(run, isolation):
    ideal(repeats=2, nodes=(1,), never_ran=frozenset({("ddp", 1, 2)})).write(isolation / "runs")
    assert run("collect", "--offline")[0] == 1


def test_bad_input_is_2_and_nothing_on_stdout(run):
    code, out, err = run("submit", "--cluster", "nowhere")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, EOFError])
def test_interruption_is_130(run, study, monkeypatch, interruption):
    monkeypatch.setattr("hpcpar.control.status.get_status", lambda _, **__: (_ for _ in ()).throw(interruption()))
    code, out, err = run("status")
    assert (code, out) == (130, "")
    assert "interrupted" in err


def test_an_error_that_is_not_the_users_keeps_its_traceback(study, monkeypatch):
    monkeypatch.setattr("hpcpar.control.status.get_status", lambda _, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["status"])


@pytest.mark.parametrize("error", [HpcparError("it failed \x1b[2J"), SchedulerError("sbatch", "no \x1b]0;x\x07")])
def test_what_the_scheduler_says_reaches_the_terminal_escaped(run, study, monkeypatch, error):
    monkeypatch.setattr("hpcpar.control.status.get_status", lambda _, **__: (_ for _ in ()).throw(error))
    code, _, err = run("status")
    assert code == 1
    assert err.removesuffix("\n").isprintable()


@pytest.mark.parametrize("arguments", [["plan", "--cluster", "local"], ["status"], ["collect", "--offline"]])
@pytest.mark.parametrize("encoding", ["latin1", "ascii"])
def test_a_terminal_of_an_old_encoding_is_no_traceback(study, arguments, encoding):
    if arguments[0] != "plan":
        identity = msgspec.structs.replace(study.runs()[0].spec().identity, strategy="dd\u2192\u00e9")
        run = study.runs()[0]
        run.write_spec(msgspec.structs.replace(run.spec(), identity=identity))
    line = [sys.executable, "-m", "hpcpar", *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(line, capture_output=True, env=environment, encoding=encoding)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    assert "strategy" in done.stdout


def test_json_is_ascii_whatever_the_names(run, study):
    first = study.runs()[0]
    identity = msgspec.structs.replace(first.spec().identity, strategy="dd\u2192\u00e9")
    first.write_spec(msgspec.structs.replace(first.spec(), identity=identity))
    _, out, _ = run("collect", "--offline", "--json")
    assert out.isascii()
    assert any(row["strategy"] == identity.strategy for table in json.loads(out)["tables"] for row in table["rows"])


@pytest.mark.parametrize("words", [["{}"], ["status", "--{}"], ["list", "{}"], ["submit", "--nodes", "{}"], ["--{}"]])
def test_what_was_typed_reaches_the_terminal_escaped(run, words):
    code, out, err = run(*(word.format("q\x1b[31mz") for word in words))
    assert (code, out) == (2, "")
    assert printable(err) == err
    assert "\\x1b[31m" in err


def test_a_reader_that_has_gone_is_no_traceback(study):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "hpcpar", "status"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        env={**os.environ},
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode in (0, 1)


# ---------------------------------------------------------------- how options are written


def test_several_words_may_follow_nodes_and_strategy(run):
    specs = dry_run(run, "--cluster", "local", "--nodes", "1", "2", "--strategy", "ddp", "pp", "--repeats", "1")
    cells = [(spec["identity"]["strategy"], spec["identity"]["nodes"]) for spec in specs]
    assert sorted(cells) == [("ddp", 1), ("ddp", 2), ("pp", 1), ("pp", 2)]


def test_a_study_may_follow_the_strategies(run, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('schema = 1\nworkload = "llama-tiny"\nnodes = [2]\nrepeats = 1\n')
    specs = dry_run(run, "--cluster", "local", "--strategy", "ddp", "pp", path)
    assert sorted(spec["identity"]["strategy"] for spec in specs) == ["ddp", "pp"]
    assert {(spec["study"], spec["identity"]["nodes"]) for spec in specs} == {("x", 2)}


def test_strategies_may_be_written_with_commas(run):
    specs = dry_run(run, "--cluster", "local", "--strategy", "ddp,pp", "--nodes", "1", "--repeats", "1")
    assert sorted(spec["identity"]["strategy"] for spec in specs) == ["ddp", "pp"]


def test_a_strategy_with_a_dash_in_its_name_is_a_further_word(run, tmp_path):
    specs = dry_run(run, *"--cluster local --workload mlp --strategy ddp deepspeed-zero deepspeed-tp --nodes 2".split())
    assert sorted(spec["identity"]["strategy"] for spec in specs) == ["ddp", "deepspeed-tp", "deepspeed-zero"]


@given(
    st.lists(st.sampled_from(["--nodes", "1", "2", "--strategy", "ddp", "pp", "x.toml", "--json", "--"]), max_size=8)
)
def test_spelling_out_adds_flags_and_changes_no_word(words):
    command = VariadicCommand("x", variadic={"--nodes": str.isdigit, "--strategy": str.isidentifier})
    spelled = iter(command._spelled_out(words))
    assert all(any(other == word for other in spelled) for word in words)


def test_flags_override_the_file(run, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(
        'schema = 1\nworkload = "llama-tiny"\nsteps = 50\nseed = 3\nrepeats = 1\n[workload_options]\nlayers = 3\n'
    )
    (spec,) = dry_run(run, path, "--cluster", "local", "--steps", "7", "--set", "heads=2")
    identity = spec["identity"]
    options = identity["workload_options"]
    assert (identity["steps"], identity["seed"], options["layers"], options["heads"]) == (7, 3, 3, 2)


def test_set_overrides_the_variants_of_a_file(run, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(
        'schema = 1\nworkload = "mlp"\nvariants = [{ layers = 3, lr = 0.5 }, { layers = 4 }]\nrepeats = 1\n'
    )
    specs = dry_run(run, path, "--cluster", "local", "--strategy", "single", "--set", "lr=0.1")
    found = [
        (spec["identity"]["workload_options"]["layers"], spec["identity"]["workload_options"]["lr"]) for spec in specs
    ]
    assert found == [(3, 0.1), (4, 0.1)]
    specs = dry_run(run, path, "--cluster", "local", "--strategy", "single", "--set", "lr=0.1", "--set", "layers=5")
    assert len(specs) == 1, "variants that become the same are one"


def test_set_reaches_nested_options(run, tmp_path):
    corpus = tmp_path / "corpus of mine.txt"
    corpus.write_text("text " * 10_000)
    specs = dry_run(run, "--cluster", "local", *SMALL, "--set", f"data.path={corpus}", "--set", "lr=0.5")
    options = specs[0]["identity"]["workload_options"]
    assert (options["data"]["path"], options["lr"]) == (str(corpus), 0.5)


def test_option_and_mesh_reach_the_strategies(run):
    specs = dry_run(
        run,
        "--cluster",
        "local",
        "--strategy",
        "hybrid",
        "--nodes",
        "4",
        "--mesh",
        "pp=4",
        "--option",
        "schedule=gpipe",
    )
    options = specs[0]["identity"]["strategy_options"]
    assert options["mesh"] == "pp=4"
    assert options["schedule"] == "gpipe"
    assert options["bucket_mb"] == 25.0, "what was not given is written down too"


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sumbit"], "did you mean 'submit'"),
        (["submit", "--cluser", "local"], "--cluster"),
        (["submit", "--cluster", "perlmuter"], "did you mean 'perlmutter'"),
        (["submit", "--cluster", "local", "--strategy", "hybird"], "did you mean 'hybrid'"),
        (["submit", "--cluster", "local", "--workload", "lama-tiny"], "did you mean 'llama-tiny'"),
        (["submit", "--cluster", "local", "--set", "layerz=3"], "did you mean 'layers'"),
        (["submit", "--cluster", "local", "--option", "bucketmb=3"], "did you mean 'bucket_mb'"),
        (["submit", "--cluster", "local", "--set", "lr=1e999"], "lr: must be a finite number, not inf"),
        (["submit", "--cluster", "local", "--option", "bucket_mb=inf"], "bucket_mb: must be a finite number, not inf"),
        (["submit", "quikstart", "--cluster", "local"], "did you mean 'quickstart'"),
        (["show", "cluster", "perlmuter"], "did you mean 'perlmutter'"),
        (["show", "strategy", "hybird"], "did you mean 'hybrid'"),
        (["list", "cluster"], "clusters"),
        (["submit"], "--cluster NAME"),
        (["submit", "--cluster", "local", "--nodes", "0"], "0"),
        (["submit", "--cluster", "local", "--nodes", "two"], "two"),
        (["submit", "--cluster", "local", "--nodes", "1", "1"], "twice"),
        (["submit", "--cluster", "local", "--set", "layers"], "--set: 'layers' is not KEY=VALUE"),
        (["submit", "--cluster", "local", "--option", "=1"], "--option: '=1' is not KEY=VALUE"),
        (["submit", "--cluster", "local", "--set", "a.b=1", "--set", "a=1"], "as a value and as a table"),
        (["submit", "--cluster", "local", "--strategy", ","], "at least one strategy"),
        (["submit", "--cluster", "local", "--strategy", "ddp", "ddp"], "given twice"),
        (["submit", "--cluster", "local", "--strategy", "ddp", "--mesh", "pp=2"], "takes no mesh"),
        (["submit", "--cluster", "local", "--time", "30"], "30m"),
        (["submit", "--cluster", "local", "--nodes", "3", "--global-batch", "32"], "sizes that fit: 30, 33"),
        (["submit", "--cluster", "local", "--name", "a/b"], "name"),
        (["submit", "--cluster", "local", "--name", "batches"], "batches"),
        (["status", "/nowhere/at/all"], "not a folder"),
        (["submit", "--cluster", "x" * 300], "is not known"),
        (["submit", "--cluster", "~nobody-of-that-name/x.toml"], "no such file"),
        (["submit", "no/such/study.toml", "--cluster", "local"], "no such file"),
        (["submit", "nosuch.toml", "--cluster", "local"], "job 'nosuch.toml': there is no such file here"),
        (["submit", "--cluster", "local", "--workload", "mine.py"], "FILE.py:NAME"),
        (["submit", "--cluster", "perlmutter", "--account", "a; b", "--dry-run"], "account: 'a; b' is not a word"),
        (["plan", "--cluster", "local", "--nodes", "1", "--", "sleep", "1"], "program of your own cannot be forecast"),
        (["plan", "--cluster", "local", "--workload", "script"], "program of your own cannot be forecast"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_with_what_would_be_right(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("arguments", [["status"], ["submit", "--cluster", "local", "--dry-run"], ["collect"]])
def test_a_current_folder_that_is_gone_is_bad_input(run, tmp_path, monkeypatch, arguments):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, out, err = run(*arguments)
    monkeypatch.chdir(tmp_path)
    assert (code, out) == (2, "")
    assert "current folder is gone" in err


def test_several_mistakes_are_all_named_and_counted(run):
    code, _, err = run(
        "submit", "--cluster", "perlmuter", "--strategy", "hybird", "--workload", "llama-tiny", "--set", "layerz=1"
    )
    assert code == 2
    assert all(word in err for word in ("perlmuter", "hybird", "layerz", "3 problems; nothing was submitted"))


def test_several_mistakes_of_a_file_are_named_with_file_and_key(run, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('schema = 1\nnodez = [1]\nsteps = "ten"\nscaling = "stong"\n')
    code, _, err = run("submit", path, "--cluster", "local")
    assert code == 2
    assert all(f"{path}: {key}" in err for key in ("nodez", "steps", "scaling"))


@pytest.mark.parametrize("broken", ['schema = 1\nname = "mine"\n', PROFILE.replace("schema = 1", 'schema = "1"')])
def test_a_profile_with_a_missing_or_mistyped_key_is_named_with_its_file(run, mine, broken):
    path = mine / "clusters" / "mine.toml"
    path.write_text(broken)
    code, _, err = run("submit", "--cluster", "mine", "--dry-run")
    assert code == 2
    assert str(path) in err


@pytest.mark.parametrize("value", ["a\nb", "a\0b", "a\x1b[2Jb", "a\udcffb"], ids=ascii)
@pytest.mark.parametrize("flag", ["--account", "--qos", "--partition", "--constraint", "--python", "--runs", "--name"])
def test_a_control_character_in_any_flag_is_bad_input_and_printed_escaped(run, mine, flag, value):
    code, out, err = run("submit", "--cluster", "mine", *SMALL, "--dry-run", flag, value)
    assert (code, out) == (2, "")
    assert all(line.isprintable() for line in err.splitlines())
    assert flag.removeprefix("--") in err


def test_a_control_character_in_the_environment_is_bad_input(run, mine, monkeypatch):
    monkeypatch.setenv("HPCPAR_RUNS", "/a\nb")
    code, _, err = run("submit", "--cluster", "mine", *SMALL, "--dry-run")
    assert code == 2
    assert "runs folder" in err


@pytest.mark.parametrize("value", [b"caf\xe9.txt", b"a\xffb"])
def test_data_whose_name_is_not_utf8_is_bad_input(run, tmp_path, value):
    path = tmp_path / os.fsdecode(value)
    path.write_bytes(b"text " * 10_000)
    code, out, err = run("submit", "--cluster", "local", *SMALL, "--dry-run", "--set", f"data.path={path}")
    assert (code, out) == (2, "")
    assert "path" in err


# ---------------------------------------------------------------- nothing half-written


def tree(*roots):
    """Every file below some folders, with its content."""
    found = {}
    for root in roots:
        for path in sorted(Path(root).rglob("*")):
            found[str(path)] = path.read_bytes() if path.is_file() else None
    return found


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_dry_run_writes_nothing_at_all(run, *, isolation, tmp_path, mine, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    before = tree(isolation, tmp_path)
    code, out, _ = run("submit", "--cluster", "mine", *SMALL, "--dry-run", *more)
    assert code == 0
    assert out
    assert tree(isolation, tmp_path) == before


def test_a_dry_run_of_a_study_that_is_there_writes_nothing_at_all(run, isolation, no_queue):
    run("submit", "--cluster", "local", *SMALL)
    before = tree(isolation)
    assert run("submit", "--cluster", "local", *SMALL, "2", "--dry-run")[0] == 0
    assert tree(isolation) == before


def test_a_dry_run_needs_no_scheduler(run, mine, commands):
    assert run("submit", "--cluster", "mine", *SMALL, "--dry-run")[0] == 0


def test_without_sbatch_on_path_nothing_is_written(run, isolation, mine, commands):
    before = tree(isolation)
    code, _, err = run("submit", "--cluster", "mine", *SMALL)
    assert code == 2
    assert "no 'sbatch' on PATH" in err
    assert "--dry-run" in err
    assert tree(isolation) == before


def test_without_an_account_where_one_is_needed_nothing_is_written(run, isolation, mine):
    path = mine / "clusters" / "mine.toml"
    path.write_text(PROFILE.replace('name = "mine"', 'name = "mine"\naccount_required = true'))
    before = tree(isolation)
    assert run("submit", "--cluster", "mine", *SMALL, "--dry-run")[0] == 0
    code, _, err = run("submit", "--cluster", "mine", *SMALL)
    assert code == 2
    assert "--account" in err
    written = {path for path in tree(isolation) if path not in before}
    assert written == {f"{isolation}/state", f"{isolation}/state/calls"}, "how often Slurm was asked, and nothing else"


@pytest.fixture
def no_queue(monkeypatch):
    """Let nobody start this machine's queue."""
    monkeypatch.setattr("hpcpar.control.local_queue.start", lambda: None)


@pytest.fixture
def no_room(tmp_path):
    """A file system without room for a study, where the user may mount one: 8 inodes."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k,nr_inodes=8", "tmpfs", str(place)]
    with contextlib.suppress(OSError):
        if subprocess.run(["mount", *options], capture_output=True, timeout=20).returncode == 0:
            yield place
            subprocess.run(["umount", "-l", str(place)], timeout=20, check=True)
            return
    pytest.skip("may not mount a small file system here")


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
    with contextlib.suppress(OSError):
        command = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, timeout=20).returncode == 0:
            yield place
            subprocess.run(["umount", "-l", str(place)], timeout=20, check=True)
            return
    pytest.skip("may not mount here")


def test_a_read_only_runs_folder_is_bad_input_and_nothing_is_written_elsewhere(run, read_only, no_queue, isolation):
    before = tree(isolation)
    code, _, err = run("submit", "--cluster", "local", *SMALL, "--runs", read_only / "runs")
    assert code == 2
    assert "cannot write" in err
    assert tree(isolation, read_only) == before


@pytest.mark.parametrize("more", [[], ["--for", "archer2"]])
def test_a_report_that_cannot_be_written_names_its_own_flag(run, study, tmp_path, monkeypatch, more):
    monkeypatch.setattr("hpcpar.analysis.outputs.files", lambda *_: {})
    (tmp_path / "file").touch()
    code, _, err = run("collect", "--offline", "--out", tmp_path / "file" / "x", *more)
    assert code == 2
    assert "cannot write" in err
    assert "name another place: --out DIR" in err
    assert "--runs" not in err


def test_a_full_runs_folder_is_bad_input_and_is_left_as_it_was(run, no_room, no_queue, isolation):
    code, _, err = run("submit", "--cluster", "local", *SMALL, "--runs", no_room / "runs")
    assert code == 2
    assert "No space left on device" in err
    assert tree(no_room) == {}
    assert tree(isolation / "state") == {}


def test_a_file_in_the_place_of_the_runs_folder_is_bad_input(run, tmp_path, no_queue):
    (tmp_path / "runs").touch()
    code, _, err = run("submit", "--cluster", "local", *SMALL, "--runs", tmp_path / "runs")
    assert code == 2
    assert "cannot write" in err


def test_a_state_folder_that_cannot_be_written_leaves_no_study_behind(run, tmp_path, monkeypatch, isolation, no_queue):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HPCPAR_STATE", str(tmp_path / "file" / "state"))
    code, _, err = run("submit", "--cluster", "local", *SMALL)
    assert code == 2
    assert "cannot write" in err
    assert tree(isolation / "runs") == {}


FAILING_WRITES = 12
"""More than there are writes before the hand-over of one run: spec, manifest, script, index, entry."""


@pytest.mark.parametrize("number", range(FAILING_WRITES))
def test_whichever_write_fails_before_the_hand_over_nothing_is_left(run, isolation, monkeypatch, no_queue, number):
    """Count the calls that make something on the disk; let one of them fail, and all after it: the disk is full."""
    from hpcpar import storage

    calls = iter(range(10**6))
    real_write, real_folder = storage._write_all, Path.mkdir
    handed_over = []

    def fails():
        return next(calls) >= number and not handed_over

    def write_all(descriptor, content):
        if fails():
            raise OSError(28, "No space left on device")
        real_write(descriptor, content)

    def mkdir(self, *arguments, **keywords):
        if fails():
            raise OSError(28, "No space left on device")
        real_folder(self, *arguments, **keywords)

    monkeypatch.setattr(storage, "_write_all", write_all)
    monkeypatch.setattr(storage.Path, "mkdir", mkdir)
    monkeypatch.setattr("hpcpar.control.submit._hand_over", lambda _: handed_over.append(1) or ["local-x"])
    code, _, err = run("submit", "--cluster", "local", *SMALL)
    assert (code, bool(handed_over)) in ((2, False), (0, True)), err
    if code == 2:
        assert tree(isolation / "runs") == {}


def test_the_writes_that_are_made_to_fail_are_all_there_are(run, isolation, monkeypatch, no_queue):
    monkeypatch.setattr("hpcpar.control.submit._hand_over", lambda _: ["local-x"])
    assert run("submit", "--cluster", "local", *SMALL)[0] == 0
    assert len(tree(isolation / "runs", isolation / "state")) <= FAILING_WRITES


def test_the_batch_of_another_submit_is_left_alone(run, isolation, monkeypatch, no_queue):
    """Where the file system has no locks, the batch's folder keeps two submits apart: the later one leaves it alone."""
    from hpcpar.control import writing

    real = writing.write_all

    def after_the_other(prepared, *rest):
        for batch in prepared.batches:
            batch.folder.create("#!/bin/bash\n", ["of-the-other"])
        real(prepared, *rest)

    monkeypatch.setattr(writing, "write_all", after_the_other)
    code, _, err = run("submit", "--cluster", "local", *SMALL)
    assert code == 2
    assert "another process" in err
    (batch,) = StudyFolder(isolation / "runs" / "llama-tiny-strong").batches()
    assert batch.read().runs == {0: "of-the-other"}


def test_a_second_submit_at_the_same_time_is_told_so(run, isolation, no_queue):
    from hpcpar.control.writing import only_submit_of

    with only_submit_of(StudyFolder(isolation / "runs" / "llama-tiny-strong")):
        code, _, err = run("submit", "--cluster", "local", *SMALL)
    assert code == 2
    assert "another `hpcpar submit`" in err


# ---------------------------------------------------------------- submitting


def test_what_is_under_way_is_not_submitted_again(run, no_queue, isolation):
    assert run("submit", "--cluster", "local", *SMALL)[0] == 0
    code, out, _ = run("submit", "--cluster", "local", *SMALL, "--json")
    assert (code, json.loads(out)["jobs"]) == (0, [])
    assert json.loads(out)["skipped"] == {"queued": 1}


def test_a_study_is_extended_by_what_is_new(run, no_queue):
    run("submit", "--cluster", "local", *SMALL)
    code, out, _ = run("submit", "--cluster", "local", *SMALL, "2", "--dry-run", "--json")
    answer = json.loads(out)
    assert (code, answer["skipped"]) == (0, {"queued": 1})
    assert [spec["identity"]["nodes"] for batch in answer["batches"] for spec in batch["runs"]] == [2]


def test_arrays_are_split_at_the_sites_limit(run, mine):
    path = mine / "clusters" / "mine.toml"
    path.write_text(PROFILE.replace('name = "mine"', 'name = "mine"\nmax_array_size = 2'))
    _, out, _ = run("submit", "--cluster", "mine", *SMALL, "--repeats", "5", "--dry-run", "--json")
    assert [len(batch["runs"]) for batch in json.loads(out)["batches"]] == [2, 2, 1]


def test_runs_of_one_shape_share_an_array_whatever_their_strategy(run, mine):
    _, out, _ = run(
        "submit",
        "--cluster",
        "mine",
        "--strategy",
        "ddp",
        "pp",
        "--nodes",
        "1",
        "2",
        "--repeats",
        "3",
        "--dry-run",
        "--json",
    )
    assert [len(batch["runs"]) for batch in json.loads(out)["batches"]] == [6, 6]


def test_a_dry_run_shows_the_bytes_that_are_submitted(run, no_queue, isolation):
    _, shown, _ = run("submit", "--cluster", "local", *SMALL, "--dry-run")
    run("submit", "--cluster", "local", *SMALL)
    (batch,) = StudyFolder(isolation / "runs" / "llama-tiny-strong").batches()
    assert batch.script_path.read_text() == shown


def test_a_dry_run_names_the_files_that_won(run, mine):
    _, out, err = run("submit", "--cluster", "mine", *SMALL, "--dry-run")
    assert str(mine / "clusters" / "mine.toml") in err
    assert "sbatch.sh.j2" in err
    assert out.startswith("#!/bin/bash\n")


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--json"],
        ["collect", "--format", "json", "--offline"],
        ["collect", "--json", "--offline"],
        ["list", "clusters", "--json"],
        ["list", "strategies", "--json"],
        ["list", "workloads", "--json"],
        ["list", "jobs", "--json"],
        ["list", "templates", "--json"],
        ["show", "cluster", "perlmutter", "--json"],
        ["show", "strategy", "hybrid", "--json"],
        ["show", "workload", "mlp", "--json"],
        ["show", "job", "quickstart", "--json"],
        ["submit", "quickstart", "--cluster", "local", "--dry-run", "--json"],
    ],
    ids=" ".join,
)
def test_json_answers_parse(run, study, arguments):
    code, out, _ = run(*arguments)
    assert code == 0
    assert json.loads(out)


def test_two_forms_of_one_answer_are_refused(run, study):
    code, out, err = run("collect", "--json", "--format", "csv", "--offline")
    assert (code, out) == (2, "")
    assert "give one of them" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--largest-job", "3"], "name its programme with --for"),
        (["--format", "json", "--for", "archer2"], "leave --format and --json out"),
        (["--json", "--for", "archer2"], "leave --format and --json out"),
    ],
)
def test_a_flag_that_would_mean_nothing_is_refused(run, study, flags, words):
    code, out, err = run("collect", "--offline", *flags)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf"])
def test_a_target_that_no_loss_reaches_is_refused(run, study, loss):
    code, out, err = run("collect", "--offline", "--target-loss", loss)
    assert (code, out) == (2, "")
    assert f"--target-loss: {loss} is not a finite number" in err
    assert run("collect", "--offline", "--target-loss", "-1")[0] == 0


@pytest.mark.parametrize("kind", ["strategies", "workloads"])
def test_everything_registered_is_listed_with_a_line(run, kind):
    _, out, _ = run("list", kind, "--json")
    table = registry.STRATEGIES if kind == "strategies" else registry.WORKLOADS
    assert {row["name"] for row in json.loads(out)} >= set(table)
    assert all(row["about"] for row in json.loads(out))


@pytest.mark.parametrize(("kind", "one"), [("clusters", "cluster"), ("jobs", "job"), ("templates", "template")])
def test_everything_listed_can_be_shown(run, kind, one):
    _, out, _ = run("list", kind, "--json")
    for row in json.loads(out):
        code, shown, _ = run("show", one, row["name"])
        assert (code, shown) == (0, Path(row["file"]).read_text())


def test_status_without_a_terminal_cuts_no_line(run, study):
    _, out, _ = run("status")
    assert "…" not in out
    assert all(folder.path.name in out for folder in study.runs())


def test_status_names_the_runs_whose_spec_is_gone_or_damaged(run, study):
    gone, damaged, *_ = study.runs()
    study.batch("0123456789").create("", [folder.path.name for folder in study.runs()])
    gone.spec_path.unlink()
    damaged.spec_path.write_text("[]")
    code, out, err = run("status", "--json")
    assert code == 1
    assert json.loads(out)["unreadable"] == sorted(f"{study.name}/{one.path.name}" for one in (gone, damaged))
    assert "not shown, because spec.json is gone, damaged, or may not be read: " in run("status")[2]
    assert err == ""


def test_status_of_more_runs_than_fit_says_how_many_are_left_out(run, isolation):
    ideal(nodes=(1,), repeats=65).write(isolation / "runs")
    assert "... and 5 more (--all shows them)" in run("status")[1]
    assert "more (" not in run("status", "--all")[1]


def test_status_and_collect_find_the_latest_study_from_anywhere(run, tmp_path, monkeypatch):
    study = StudyFolder(ideal(nodes=(1,), repeats=1).write(tmp_path / "elsewhere")[0].path.parent)
    runs.remember_study(study)
    monkeypatch.chdir("/")
    assert study.runs()[0].path.name in run("status")[1]
    assert run("collect", "--offline")[0] == 0


def test_without_any_study_the_answer_says_where_it_looked(run, isolation):
    code, _, err = run("status")
    assert code == 2
    assert str(isolation / "runs") in err


@pytest.mark.parametrize("form", ["text", "md", "csv", "json"])
def test_a_failed_run_is_a_row_of_every_table(run, isolation, form):
    ideal(nodes=(1, 2), repeats=2, failures={("ddp", 2, 1): "oom_host"}).write(isolation / "runs")
    code, out, _ = run("collect", "--format", form, "--offline")
    assert code == 1
    assert "oom_host" in out


def test_collect_prints_csv_that_reads_back(run, study):
    _, out, _ = run("collect", "--format", "csv", "--offline")
    assert len(list(csv.DictReader(io.StringIO(out)))) >= 2


def two_dates(isolation, **changes):
    old = replace(ideal(nodes=(1, 2), repeats=3, begun_s=1e9), noise=0.005)
    old.write(isolation / "old")
    replace(old, study="new", seed=1, begun_s=1.1e9, **changes).write(isolation / "new")
    return isolation / "new", isolation / "old"


def test_a_collection_that_deteriorates_against_another_fails_only_where_that_is_asked(run, isolation):
    new, old = two_dates(isolation, truths={"ddp": Truth(0.0, 1.2 * 2**-8)})

    assert run("collect", new, "--against", old, "--offline")[0] == 0
    code, out, err = run("collect", new, "--against", old, "--offline", "--fail-on", "deteriorates")
    assert code == 1
    assert "warning: ddp on 2 nodes, time against oracle: strongly deteriorates" in err
    assert "Against the other collection" in out
    assert run("collect", old, "--against", new, "--offline", "--fail-on", "deteriorates")[0] == 0


def test_a_study_is_not_compared_with_itself(run, study):
    one, other, *_ = study.runs()

    for sides in [(study.path, study.path), (one.path, other.path), (study.path.parent, one.path)]:
        code, out, err = run("collect", sides[0], "--against", sides[1], "--offline")
        assert (code, out) == (2, "")
        assert f"both sides are the same runs ({study.name}): a run's folder stands for its whole study" in err


def test_what_is_not_shown_to_be_no_worse_can_fail_too(run, isolation):
    new, old = two_dates(isolation, repeats=1)

    assert run("collect", new, "--against", old, "--offline", "--fail-on", "deteriorates")[0] == 0
    code, _, err = run("collect", new, "--against", old, "--offline", "--fail-on", "inconclusive")
    assert code == 1
    assert "time against oracle: not enough runs" in err


def test_wrong_margins_and_targets_are_said_together(run, study):
    code, out, err = run("collect", "--offline", "--efficiency-target", "0", "--margin", "tme=0.1")

    assert code == 2
    assert out == ""
    assert "--efficiency-target: 0 is not between 0 and 1" in err
    assert "--margin tme=0.1: there is no metric 'tme'\n    did you mean 'time'?" in err


# ---------------------------------------------------------------- what comes from elsewhere

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnirts\x00"


@pytest.fixture
def copied(isolation):
    """A runs folder from a stranger: names and messages full of what a terminal obeys."""
    oracle = ideal(nodes=(1, 2), repeats=1, failures={("ddp", 2, 1): "data"})
    folders = oracle.write(isolation / "runs")
    for folder in folders:
        spec = folder.spec()
        identity = msgspec.structs.replace(spec.identity, workload="w" + ESCAPES, strategy="s" + ESCAPES)
        folder.write_spec(
            msgspec.structs.replace(spec, study="x" + ESCAPES, identity=identity, sample_unit="u" + ESCAPES)
        )
        for path in folder.path.glob("events.*"):
            path.write_bytes(
                path.read_bytes().replace(b"it died of", json.dumps(ESCAPES)[1:-1].encode() + b"it died of")
            )
    hostile = isolation / "runs" / ("oracle" + ESCAPES.replace("\x00", ""))
    folders[0].path.parent.rename(hostile)
    return hostile


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["collect", "--offline"],
        *(["collect", "--offline", "--format", f] for f in ("md", "csv", "json")),
    ],
    ids=" ".join,
)
def test_nothing_that_a_terminal_obeys_is_printed(run, copied, arguments):
    code, out, err = run(*arguments)
    assert code in (0, 1), err
    assert all(char.isprintable() or char == "\n" for char in out + err if char != "\r")


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"]], ids=" ".join)
def test_a_study_whose_name_is_not_utf8_is_shown(run, isolation, arguments):
    folder = ideal(nodes=(1,), repeats=1).write(isolation / "runs")[0]
    folder.path.parent.rename(isolation / "runs" / os.fsdecode(b"caf\xe9"))
    code, out, err = run(*arguments)
    assert code in (0, 1), err
    assert "caf" in out


def test_a_description_from_elsewhere_is_printed_escaped(run, mine):
    path = mine / "clusters" / "mine.toml"
    path.write_text(PROFILE.replace("a cluster", "a \\u009b2J\\u0007 cluster"))
    _, out, _ = run("list", "clusters")
    assert "\\x9b2J\\x07 cluster" in out


@given(st.text())
def test_printable_text_is_printable_and_line_breaks_stay(text):
    shown = printable(text)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert shown.count("\n") == text.count("\n")
