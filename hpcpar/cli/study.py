"""Read a study's file and its cluster's profile, and merge the flags of `submit` and `plan` into them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcpar import assets
from hpcpar.decode import decode, find_problems, nested, read_toml
from hpcpar.errors import InputError, Problem
from hpcpar.profile import ClusterProfile
from hpcpar.spec import Study
from hpcpar.workload_files import study_name

_STUDY_FLAGS = (
    "cluster node_type workload scaling global_batch micro_batch steps warmup_steps quick diagnose_steps repeats seed"
    " time memory account qos partition constraint python ranks_per_node cpus_per_rank paired max_queued"
).split()
"""Flags that stand for a key of the study of the same name."""


def _program(data: dict[str, Any], words: tuple[str, ...]) -> Iterator[Problem]:
    """Take what stands after `--` for the command line of the user's own program."""
    if data.get("workload", "script") != "script":
        yield Problem(
            "--", f"workload {data['workload']} starts no program", "use --workload script, or leave `--` out"
        )
        return
    data["workload"] = "script"
    data.setdefault("strategies", ["own"])
    data["workload_options"] = {**data.get("workload_options", {}), "command": list(words)}


def read_study(study_file: str | None, flags: dict[str, Any]) -> tuple[Study, str]:
    """Merge a study's file and the flags; return it and the words for messages.

    Raises:
        InputError: with every problem of both.
    """
    data: dict[str, Any] = {}
    where = "flags"
    if study_file is not None:
        path = assets.find("jobs", study_file)
        data, where = read_toml(path), short(path)
        data.setdefault("name", path.stem)
    problems = find_problems(Study, data, where) if data else []
    pairs = {
        key: _pairs(flags[key], flag, problems)
        for key, flag in (("workload_options", "--set"), ("strategy_options", "--option"))
    }
    data = {**data, **{key: flags[key] for key in _STUDY_FLAGS if flags[key] is not None}}
    if pairs["workload_options"]:
        _set_options(data, nested(pairs["workload_options"]))
    if flags["nodes"]:
        data["nodes"] = list(flags["nodes"])
    _apply_strategies(data, flags, nested(pairs["strategy_options"]))
    if flags["checkpoint_every"]:
        data["checkpoint"] = _merged(data.get("checkpoint", {}), {"every": flags["checkpoint_every"]})
    problems += _program(data, flags["program"]) if flags["program"] else ()
    if flags["name"] is not None:  # an empty one is refused: a script's unset variable must not mean the default
        data["name"] = flags["name"]
    workload = study_name(str(data.get("workload", Study().workload)))
    data.setdefault("name", f"{workload}-{data.get('scaling', 'strong')}")
    problems += [p for p in find_problems(Study, data, where) if p not in problems]
    if problems:
        raise InputError(problems)
    return decode(Study, data, where), where


def _set_options(data: dict[str, Any], given: dict[str, Any]) -> None:
    """Let --set override the file's options, those of its variants too; variants that become the same are one."""
    data["workload_options"] = _merged(data.get("workload_options", {}), given)
    variants = data.get("variants", [])
    if variants and isinstance(variants, list) and all(isinstance(one, dict) for one in variants):
        merged = [_merged(one, given) for one in variants]
        data["variants"] = [one for place, one in enumerate(merged) if one not in merged[:place]]


def _apply_strategies(data: dict[str, Any], flags: dict[str, Any], options: dict[str, Any]) -> None:
    """Let --strategy, --mesh and --option override the file's strategies."""
    names = [name for given in flags["strategies"] for name in given.split(",") if name]
    if flags["strategies"]:  # an empty name is no name, and not the default
        data["strategies"] = names
    if flags["mesh"] is None and not options:
        return
    if flags["mesh"] == "":
        raise InputError(Problem("--mesh", "is empty", "AXIS=SIZE,..., for example pp=2,dp=-1; or leave it out"))
    chosen = data.get("strategies", list(Study().strategies))
    tables = [dict(one) if isinstance(one, dict) else {"name": one} for one in chosen]
    for table in tables:
        if flags["mesh"]:
            table["mesh"] = flags["mesh"]
        if options:
            table["options"] = _merged(table.get("options", {}), options)
    data["strategies"] = tables


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _pairs(given: tuple[str, ...], flag: str, problems: list[Problem]) -> dict[str, str]:
    pairs = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            problems.append(Problem(flag, f"'{text}' is not KEY=VALUE"))
        else:
            pairs[key] = value
    return pairs


def read_profile(study: Study, where: str) -> tuple[ClusterProfile, Path]:
    """Read the profile of the study's cluster.

    Raises:
        InputError: there is none, or it is wrong.
    """
    if not study.cluster:
        known = ", ".join(assets.available("clusters"))
        raise InputError(Problem(f"{where}: cluster", "is not given", f"--cluster NAME, one of: {known}"))
    path = assets.find("clusters", study.cluster)
    return decode(ClusterProfile, read_toml(path), str(path)), path


def short(path: Path) -> str:
    """Return a path as it is called from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
