"""RunSpecs, profile and template to the text of a job script. Pure: reads templates, writes nothing, asks nobody.

Safe by construction: an expression of a template that did not pass a quoting filter is an error, whoever wrote it.
"""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2
from jinja2.compiler import CodeGenerator
from markupsafe import Markup
from msgspec import Struct

from hpcpar.assets import builtin_folder, search_path
from hpcpar.control import container
from hpcpar.control.deadline import OverdueError, processor_seconds
from hpcpar.control.safe import (
    control_character,
    option_problems,
    path_problems,
    value_problems,
    variable_problems,
    word_problems,
)
from hpcpar.errors import InputError, Problem
from hpcpar.profile import ClusterProfile, NodeType
from hpcpar.runs import WORKER_SCRIPT_VARIABLE, WORKER_TAG, BatchFolder, batch_tag
from hpcpar.snapshot import FOLDER_VARIABLE, ROOT_VARIABLE
from hpcpar.spec import Resources
from hpcpar.units import parse_memory, slurm_memory, slurm_time

LIMIT_S = 5.0
"""Of processor time, for one script: a thousand runs take a few milliseconds."""
_PLAIN_DIRECTIVE = re.compile(r"[A-Za-z0-9._@+:,/=&|*!()\[\]%~^-]+", re.ASCII)


class JobText(Struct, frozen=True, kw_only=True):
    """What a template sees as `job`; as `cluster` it sees the ClusterProfile."""

    batch: str
    directives: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    run_names: tuple[str, ...]
    study_folder: str
    payload: str
    python: str
    srun_options: tuple[str, ...]
    wrap: tuple[str, ...]
    """Words before the interpreter: the container in which a rank runs."""
    nodes: int
    ranks_per_node: int
    time_s: float
    stops_early: bool
    """The run may save and leave before its time limit."""
    requeue: bool
    """Then it goes back into the queue."""
    worker_tag: str = ""
    """Begin of the name of the job with a driver's workers; "" where the ranks do the work themselves."""
    run_time_s: int = 0
    """Of a job that several runs share, whose names stand in one word: how long each may take; 0: it has one run."""


class Script(NamedTuple):
    """A rendered script and the template file that won."""

    text: str
    template: str


class Shape(NamedTuple):
    """A batch as far as its script depends on it."""

    key: str
    study: str
    run_names: tuple[str, ...]
    folder: Path
    payload: Path
    python: str
    resources: Resources
    profile: ClusterProfile
    node_type: NodeType
    code: tuple[Path, Path] | None = None
    """A snapshot of the user's code, and the folder of which it is a copy."""
    role: Literal["ranks", "driver", "worker"] = "ranks"
    """"driver": one process that submits the script of the role "worker"."""

    @property
    def nodes(self) -> int:
        """Nodes of the job."""
        return 1 if self.role == "driver" else self.resources.nodes

    @property
    def ranks_per_node(self) -> int:
        """Processes that srun starts on each of them."""
        return 1 if self.role == "driver" else self.resources.ranks_per_node

    @property
    def cpus_per_rank(self) -> int:
        """CPUs of each of those: a driver only waits."""
        return 1 if self.role == "driver" else self.resources.cpus_per_rank


def job_text(shape: Shape) -> JobText:
    """Decide everything that a template prints."""
    return JobText(
        batch=shape.key,
        directives=_directives(shape),
        environment=(*_environment(shape.resources, shape.profile), *_code(shape.code), *_drives(shape)),
        run_names=shape.run_names,
        study_folder=str(shape.folder.parent.parent),
        payload=str(shape.payload),
        python=shape.python,
        srun_options=(
            *_srun_options(shape),
            *container.srun_options(shape.profile.environment.container, shape.folder.parent.parent),
        ),
        wrap=container.words(shape.profile.environment.container, shape.node_type, shape.folder.parent.parent),
        nodes=shape.nodes,
        ranks_per_node=shape.ranks_per_node,
        time_s=shape.resources.time_s,
        stops_early=shape.resources.signal_s > 0,
        requeue=shape.resources.requeue,
        worker_tag=WORKER_TAG if shape.role != "ranks" and shape.profile.scheduler == "slurm" else "",
        run_time_s=math.ceil(shape.resources.run_time_s),
    )


def _directives(shape: Shape) -> tuple[str, ...]:
    resources, num_runs = shape.resources, len(shape.run_names)
    log = str(shape.folder / "logs").replace("%", "%%") + ("/%A_%a.log" if num_runs > 1 else "/%j.log")
    options = {
        "--job-name": WORKER_TAG + shape.key if shape.role == "worker" else batch_tag(shape.study, shape.key),
        "--comment": f"hpcpar:{shape.key}",
        "--nodes": shape.nodes,
        "--ntasks-per-node": shape.ranks_per_node,
        "--cpus-per-task": shape.cpus_per_rank,
        "--time": slurm_time(resources.time_s),
        "--array": _array(shape),
        "--account": resources.account,
        "--qos": resources.qos,
        "--partition": resources.partition,
        "--constraint": resources.constraint,
        "--exclude": ",".join(resources.exclude),
        **(_gpu_request(resources, shape.node_type) if shape.role != "driver" else {}),
        "--mem": _memory(resources.memory),
        "--signal": f"USR1@{resources.signal_s}" if resources.signal_s else "",
        "--open-mode": "append",
        "--output": log,
    }
    given = tuple(f"{option}={value}" for option, value in options.items() if value != "")
    requeue = "--requeue" if resources.requeue or resources.requeue_on_fault else "--no-requeue"
    return (*given, requeue, *shape.profile.directives)


def _array(shape: Shape) -> str:
    if len(shape.run_names) < 2:
        return ""
    # One driver at a time: drivers that wait for their workers must not hold the nodes that these wait for.
    return f"0-{len(shape.run_names) - 1}" + "%1" * (shape.role == "driver")


def _drives(shape: Shape) -> tuple[tuple[str, str], ...]:
    if shape.role != "driver" or shape.profile.scheduler != "slurm":
        return ()
    return ((WORKER_SCRIPT_VARIABLE, str(BatchFolder(shape.folder).worker_script_path)),)


def _gpu_request(resources: Resources, node_type: NodeType) -> dict[str, Any]:
    if not resources.gpus_per_node:
        return {}
    requests: dict[str, dict[str, Any]] = {
        "gpus-per-node": {"--gpus-per-node": resources.gpus_per_node},
        "gres": {"--gres": f"gpu:{resources.gpus_per_node}"},
        "gpus-per-task": {"--gpus-per-task": 1},
    }
    return requests.get(node_type.gpu_request, {})


def _memory(memory: str) -> str:
    return memory if memory in ("", "0") else slurm_memory(parse_memory(memory))


def _environment(resources: Resources, profile: ClusterProfile) -> tuple[tuple[str, str], ...]:
    variables = {
        "OMP_NUM_THREADS": str(resources.cpus_per_rank),
        "HPCPAR_CPUS_PER_RANK": str(resources.cpus_per_rank),
        # A rank that is killed must not take what it printed with it.
        "PYTHONUNBUFFERED": "1",
        **_checkpointing(resources),
        **({"HPCPAR_HANG_AFTER_S": f"{resources.hang_after_s:g}"} if resources.hang_after_s else {}),
        **profile.environment.set,
    }
    if resources.nodes > 1:
        variables.update(profile.environment.multi_node)
    return tuple(variables.items())


def _code(code: tuple[Path, Path] | None) -> tuple[tuple[str, str], ...]:
    return ((FOLDER_VARIABLE, str(code[0])), (ROOT_VARIABLE, str(code[1]))) if code else ()


def _checkpointing(resources: Resources) -> dict[str, str]:
    wanted = resources.checkpoint
    if wanted is None:
        return {}
    every = {"HPCPAR_CHECKPOINT_EVERY": str(wanted.every)} if wanted.every else {}
    return {**every, "HPCPAR_CHECKPOINT_KEEP": str(wanted.keep)}


def _srun_options(shape: Shape) -> tuple[str, ...]:
    profile, node_type = shape.profile, shape.node_type
    options = [
        f"--nodes={shape.nodes}",
        f"--ntasks={shape.nodes * shape.ranks_per_node}",
        f"--ntasks-per-node={shape.ranks_per_node}",
        f"--cpus-per-task={shape.cpus_per_rank}",
        f"--kill-on-bad-exit={int(profile.kill_on_bad_exit)}",
    ]
    options += [f"--cpu-bind={profile.srun.cpu_bind}"] * bool(profile.srun.cpu_bind)
    with_gpus = shape.resources.gpus_per_node and shape.role != "driver"
    options += [f"--gpu-bind={node_type.gpu_bind}"] * bool(node_type.gpu_bind and with_gpus)
    options += [f"--network={profile.srun.network}"] * bool(profile.srun.network)
    return (*options, *profile.srun.args)


def refuse_unsafe(job: JobText, shape: Shape) -> list[Problem]:
    """List, by name, every value that must not reach a script."""
    profile, resources = shape.profile, shape.resources
    words = {name: getattr(resources, name) for name in ("account", "qos", "partition", "constraint")}
    typed = resources.account.removesuffix(shape.node_type.account_suffix)
    if list(word_problems({"account": typed})):  # nobody typed what the profile adds
        words["account"] = typed
    words["exclude"] = ",".join(resources.exclude)
    cluster = f"cluster {profile.name}"
    of_profile = {
        f"{cluster}: environment.activate": profile.environment.activate,
        f"{cluster}: environment.archive": profile.environment.archive,
        f"{cluster}: node_local": profile.node_local,
    }
    named = [
        *value_problems(profile, cluster),
        *value_problems(resources, "resources"),
        *word_problems(words),
        *option_problems(profile.directives, f"{cluster}: directives"),
        *option_problems(profile.srun.args, f"{cluster}: srun.args"),
        *variable_problems(profile.environment.set, f"{cluster}: environment.set"),
        *variable_problems(profile.environment.multi_node, f"{cluster}: environment.multi_node"),
        *path_problems({"runs folder": job.study_folder, "python": job.python, **of_profile}),
    ]
    named += container.problems(profile, job.study_folder)
    # What the job is made of has been named by its source; the job itself is looked at for what has no source here.
    return named or list(value_problems(job, "job"))


def render(job: JobText, profile: ClusterProfile, template_name: str = "") -> Script:
    """Print the script, from the profile's template where no other is named.

    Raises:
        InputError: the template is missing, does not parse, names what there is not, leaves a value unquoted, or does
            not come to an end.
    """
    environment = _environment_of_templates()
    try:
        with processor_seconds(LIMIT_S):
            template = environment.get_template(template_name or profile.template)
            text = template.render(job=job, cluster=profile)
    except jinja2.TemplateNotFound as error:
        raise InputError(Problem(f"template '{error.name}'", "is not known", "see `hpcpar list templates`")) from error
    except jinja2.TemplateSyntaxError as error:
        raise InputError(Problem(f"{error.filename or error.name}:{error.lineno}", str(error.message))) from error
    except (jinja2.TemplateError, _UnquotedError) as error:
        raise InputError(Problem(f"template {_where(error, profile.template)}", str(error))) from error
    except OverdueError as error:
        what, fix = f"does not end within {LIMIT_S:g} s of processor time", "look for a loop without an end"
        raise InputError(Problem(f"template {_where(error, profile.template)}", what, fix)) from error
    except RecursionError as error:
        fix = 'extend the one that is shipped: {% extends "builtin/' + profile.template + '" %}'
        raise InputError(Problem(f"template {_where(error, profile.template)}", "extends itself", fix)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"template '{profile.template}'", f"cannot be read: {error}")) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(Problem(f"template {_where(error, profile.template)}", what)) from error
    return Script(text.rstrip("\n") + "\n", template.filename or profile.template)


def _where(error: BaseException, template: str) -> str:
    """Return file and line of the template in which a rendering error arose (Jinja rewrites tracebacks to them)."""
    trace, place = error.__traceback__, template
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(".j2"):
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


class _UnquotedError(Exception):
    """An expression of a template reached the script without a quoting filter."""


class _PlainResults(CodeGenerator):
    """What an operator makes out of a quoted value is not quoted.

    Jinja would escape the other operand for HTML and mark the whole as safe.
    """

    def visit_Concat(self, node: Any, frame: Any) -> None:  # noqa: N802 - jinja2's names
        self._plain(super().visit_Concat, node, frame)

    def visit_Add(self, node: Any, frame: Any) -> None:  # noqa: N802
        self._plain(super().visit_Add, node, frame)

    def visit_Mul(self, node: Any, frame: Any) -> None:  # noqa: N802
        self._plain(super().visit_Mul, node, frame)

    def visit_Mod(self, node: Any, frame: Any) -> None:  # noqa: N802
        self._plain(super().visit_Mod, node, frame)

    def _plain(self, visit: Any, node: Any, frame: Any) -> None:
        self.write("environment.plain(")
        visit(node, frame)
        self.write(")")


class _Templates(jinja2.Environment):
    code_generator_class = _PlainResults

    def plain(self, value: object) -> object:
        return str(value) if isinstance(value, Markup) else value


def _environment_of_templates() -> jinja2.Environment:
    builtin = jinja2.FileSystemLoader(str(builtin_folder("templates")))
    own = jinja2.FileSystemLoader([str(folder) for folder in search_path("templates")])
    loader = jinja2.ChoiceLoader([jinja2.PrefixLoader({"builtin": builtin}), own])
    environment = _Templates(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        # Escaped text is marked as such by the two filters; anything that is not marked is refused by `finalize`.
        autoescape=True,
        finalize=_refuse_unquoted,
        keep_trailing_newline=True,
    )
    environment.filters = {"q": shell_quote, "directive": directive_quote, "length": len}
    return environment


@jinja2.pass_context  # so that Jinja does not print constants when it compiles, past this check
def _refuse_unquoted(_: Any, value: object) -> object:
    if isinstance(value, jinja2.Undefined):
        str(value)  # StrictUndefined raises and names the variable
    if not isinstance(value, Markup):
        raise _UnquotedError(f"the value {value!a} reaches the script unquoted: add `| q` (or `| directive`)")
    return value


def shell_quote(value: object) -> Markup:
    """Quote a value for the shell (filter `q`)."""
    text = _checked(value)
    return Markup(shlex.quote(text))


def directive_quote(value: object) -> Markup:
    """Quote an option for a #SBATCH line (filter `directive`): Slurm knows double quotes and the backslash."""
    text = _checked(value)
    if _PLAIN_DIRECTIVE.fullmatch(text):
        return Markup(text)
    option, equals, rest = text.partition("=")
    escaped = rest.replace("\\", "\\\\").replace('"', '\\"')
    return Markup(f'{option}{equals}"{escaped}"')


def _checked(value: object) -> str:
    text = str(value)
    found = control_character(text)
    if found:
        raise _UnquotedError(f"a value holds {found}: {text!a}")
    return text
