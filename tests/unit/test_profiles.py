"""The shipped cluster profiles: they decode, every fact about a machine has a source, every trap can be said."""

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.assets import builtin_folder
from hpcpar.decode import decode, read_toml
from hpcpar.errors import InputError
from hpcpar.profile import ClusterProfile
from hpcpar.spec import Study

PROFILES = {path.stem: path for path in sorted(builtin_folder("clusters").glob("*.toml"))}
NO_MACHINE = {"generic", "local", "slurm-test"}
MACHINES = sorted(set(PROFILES) - NO_MACHINE)

# What the profile's author chooses; everything else is a fact about the site.
CHOICES = re.compile(
    r"schema|name|description|template|default_node_type|default_time|requeue|kill_on_bad_exit|account|python|runs_root"
    r"|node_types\.[^.]+\.description|sources(\..*)?"
)

SMALL = """
schema = 1
name = "mine"
description = "a small cluster"
scheduler = "slurm"
default_node_type = "gpu"
[node_types.gpu]
"""


def leaves(value, key=""):
    """Yield the dotted key of every value; an item of a list has its list's key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for item in value:
            yield from leaves(item, key)
    else:
        yield key


def covers(pattern, key):
    return key.startswith(pattern[:-1]) if pattern.endswith("*") else key == pattern


def uncovered(data):
    """Return the facts of a profile's TOML that no source covers."""
    patterns = [pattern for source in data.get("sources", []) for pattern in source["keys"]]
    facts = {key for key in leaves(data) if not CHOICES.fullmatch(key)}
    return sorted(key for key in facts if not any(covers(pattern, key) for pattern in patterns))


def merged(below, above):
    both = dict(below)
    for key, value in above.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def profile_with(toml):
    return decode(ClusterProfile, merged(tomllib.loads(SMALL), tomllib.loads(toml)), "mine.toml")


# ---------------------------------------------------------------- what is shipped


def test_the_profiles_are_found():
    assert {*NO_MACHINE, "perlmutter"} <= set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_decodes_and_has_the_name_of_its_file(name):
    profile = decode(ClusterProfile, read_toml(PROFILES[name]), str(PROFILES[name]))
    assert profile.name == name
    assert profile.description


@pytest.mark.parametrize("name", PROFILES)
def test_ranks_fit_on_their_node(name):
    profile = decode(ClusterProfile, read_toml(PROFILES[name]), name)
    for kind in profile.node_types.values():
        if kind.usable_cpus is not None:
            assert kind.ranks_per_node * kind.cpus_per_rank <= kind.usable_cpus
        if kind.gpus_per_node:
            assert kind.ranks_per_node == kind.gpus_per_node
            assert sorted(kind.device_order) in ([], list(range(kind.gpus_per_node)))


@pytest.mark.parametrize("name", PROFILES)
def test_limits_stand_from_the_smallest_size_to_the_largest(name):
    # Qos.max_time_s takes the first line that fits.
    for qos in decode(ClusterProfile, read_toml(PROFILES[name]), name).qos.values():
        sizes = [limit.max_nodes or 10**9 for limit in qos.limits]
        assert sizes == sorted(sizes)


@pytest.mark.parametrize("name", ["local", "slurm-test"])
def test_one_host_says_that_it_is_no_evidence_of_scaling(name):
    assert "no evidence of scaling" in read_toml(PROFILES[name])["description"]


# ---------------------------------------------------------------- facts and sources


@pytest.mark.parametrize("name", MACHINES)
def test_every_fact_about_a_machine_has_a_source(name):
    assert uncovered(read_toml(PROFILES[name])) == []


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(
    ("plant", "key"),
    [
        ("[node_types.gpu]\nnew_fact = 'x'", "node_types.gpu.new_fact"),
        ("[qos.secret]\ncharge_factor = 0.1", "qos.secret.charge_factor"),
        ("new_fact = 1", "new_fact"),
        ("[environment.set]\nNCCL_ALGO = 'Ring'", "environment.set.NCCL_ALGO"),
        ("[node_types.huge]\nnum_nodes = 1\ndescription = 'x'", "node_types.huge.num_nodes"),
    ],
)
def test_a_planted_fact_without_a_source_is_found(name, plant, key):
    assert uncovered(merged(read_toml(PROFILES[name]), tomllib.loads(plant))) == [key]


@pytest.mark.parametrize("name", MACHINES)
def test_no_fact_can_lose_its_source_unnoticed(name):
    data = read_toml(PROFILES[name])
    for i, source in enumerate(data["sources"]):
        for key in source["keys"]:
            rest = [k for k in source["keys"] if k != key]
            changed = {**data, "sources": [*data["sources"][:i], {**source, "keys": rest}, *data["sources"][i + 1 :]]}
            assert uncovered(changed), f"{key} is covered twice"


@pytest.mark.parametrize("name", PROFILES)
def test_every_source_is_a_page_a_day_and_existing_keys(name):
    data = read_toml(PROFILES[name])
    keys = set(leaves(data))
    for source in decode(ClusterProfile, data, name).sources:
        assert source.url.startswith("https://")
        assert date(2026, 1, 1) <= date.fromisoformat(source.checked) <= date(2100, 1, 1)
        assert source.confirmed or source.note, "what is not confirmed says why"
        for pattern in source.keys:
            assert any(covers(pattern, key) for key in keys), f"{pattern} covers nothing"


# ---------------------------------------------------------------- every trap can be said

# One row a trap: what it is, how a profile says it, and what then holds.
TRAPS = [
    (
        "GPUs are asked for by gpus-per-node",
        "[node_types.gpu]\ngpus_per_node = 4\ngpu_request = 'gpus-per-node'",
        lambda p: p.node_types["gpu"].gpu_request == "gpus-per-node",
    ),
    (
        "GPUs are asked for by gres",
        "[node_types.gpu]\ngpus_per_node = 4\ngpu_request = 'gres'",
        lambda p: p.node_types["gpu"].gpu_request == "gres",
    ),
    (
        "GPUs come with a constraint and must not be asked for",
        "[node_types.gpu]\ngpus_per_node = 4\ngpu_request = 'constraint-only'\nconstraint = 'gpu'",
        lambda p: p.node_types["gpu"].constraint == "gpu",
    ),
    (
        "memory must not be asked for",
        "[node_types.gpu]\nrequest_memory = 'never'",
        lambda p: p.node_types["gpu"].request_memory == "never",
    ),
    (
        "the system keeps cores for itself",
        "[node_types.gpu]\nusable_cpus = 56",
        lambda p: p.node_types["gpu"].usable_cpus == 56,
    ),
    (
        "a card is two devices",
        "[node_types.gpu]\ngpus_per_node = 8\ndevices_per_card = 2\ngpu_request = 'gpus-per-node'",
        lambda p: p.node_types["gpu"].gpus_per_node // p.node_types["gpu"].devices_per_card == 4,
    ),
    ("the fast network has other host names", "host_suffix = 'i'", lambda p: p.host_suffix == "i"),
    (
        "the default QOS is a short one",
        "[node_types.gpu]\nqos = 'regular'\n[qos.regular]\n[qos.debug]\nlimits = [{ max_time = '30m' }]",
        lambda p: p.node_types["gpu"].qos == "regular" and p.qos["debug"].max_time_s(1) == 1800,
    ),
    (
        "the network takes a flag",
        "directives = ['--network=disable_rdzv_get']\n[srun]\nnetwork = 'disable_rdzv_get'",
        lambda p: p.srun.network == "disable_rdzv_get" and len(p.directives) == 1,
    ),
    (
        "devices are not numbered like the cores",
        "[node_types.gpu]\ndevice_order = [3, 2, 1, 0]",
        lambda p: p.node_types["gpu"].device_order == (3, 2, 1, 0),
    ),
    ("nodes are offline", "offline_nodes = true", lambda p: p.offline_nodes),
    (
        "caches belong on the node's own disk",
        "node_local = '/tmp'\n[environment.set]\nMIOPEN_USER_DB_PATH = '/tmp/miopen'",
        lambda p: p.node_local == "/tmp",
    ),
    (
        "the time limit depends on the number of nodes",
        "[qos.batch]\nlimits = [{ max_nodes = 91, max_time = '2h' }, { max_nodes = 183, max_time = '6h' }, "
        "{ max_time = '12h' }]",
        lambda p: [p.qos["batch"].max_time_s(n) for n in (1, 91, 92, 183, 184)] == [7200, 7200, 21600, 21600, 43200],
    ),
    (
        "the price depends on QOS or partition",
        "[qos.premium]\ncharge_factor = 2\n[qos.unknown]",
        lambda p: p.qos["premium"].charge_factor == 2.0 and p.qos["unknown"].charge_factor is None,
    ),
    (
        "limits and prices hang on the partition",
        "[node_types.gpu]\npartition = 'big'\ncharge_rate = 4\n[partitions.big]\nmin_nodes = 65\ncharge_factor = 2",
        lambda p: p.partitions["big"].min_nodes == 65 and p.node_types["gpu"].charge_rate == 4.0,
    ),
    (
        "several nodes are whole nodes, or parts are allowed",
        "[node_types.gpu]\nwhole_nodes = false",
        lambda p: not p.node_types["gpu"].whole_nodes,
    ),
    ("jobs start again by the site's default", "requeue = false", lambda p: not p.requeue),
    ("a dead rank leaves the others waiting", "kill_on_bad_exit = true", lambda p: p.kill_on_bad_exit),
    ("logging in takes a second factor", "two_factor_login = true", lambda p: p.two_factor_login),
    ("the scheduler is another family", "scheduler = 'pbs'", lambda p: p.scheduler == "pbs"),
]


@pytest.mark.parametrize(("toml", "holds"), [row[1:] for row in TRAPS], ids=[row[0] for row in TRAPS])
def test_every_trap_can_be_said(toml, holds):
    assert holds(profile_with(toml))


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[node_types.gpu]\ngpu_request = 'gres'", "node_types.gpu: gpus_per_node and gpu_request belong together"),
        ("[node_types.gpu]\ngpus_per_node = 4", "node_types.gpu: gpus_per_node and gpu_request belong together"),
        ("[node_types.gpu]\ngpu_request = ['gres', 'gpus-per-node']", "node_types.gpu.gpu_request"),
        ("[node_types.gpu]\nqos = 'regulr'\n[qos.regular]", "'regulr' is not one of"),
        ("[node_types.gpu]\npartition = 'bigg'\n[partitions.big]", "'bigg' is not one of ['big']"),
        ("default_node_type = 'cpu'", "default_node_type 'cpu' is not one of"),
        ("directives = ['--nodes=3']", "are set by hpcpar itself"),
        ("directives = ['-N 3']", "are set by hpcpar itself"),
        ("default_time = '30'", "'30' is not a duration"),
        ("[qos.a]\nlimits = [{ max_time = 'soon' }]", "qos.a.limits[0]: 'soon' is not a duration"),
        ("[node_types.gpu]\nmemory = '256'", "node_types.gpu: '256' is not a memory size"),
        ("name = 'a b'", "mine.toml: name"),
        ("schema = 2", "a newer hpcpar"),
    ],
)
def test_what_does_not_fit_together_is_refused(toml, words):
    with pytest.raises(InputError, match=re.escape(words)):
        profile_with(toml)


# ---------------------------------------------------------------- mistakes are reported together

MISTAKES = {
    "desciption": ("desciption = 'x'", "did you mean 'description'?"),
    "requeue": ("requeue = 'yes'", ""),
    "max_queued": ("max_queued = 0", ""),
    "node_types.gpu.rank_per_node": ("[node_types.gpu]\nrank_per_node = 4", "did you mean 'ranks_per_node'?"),
    "node_types.gpu.usable_cpus": ("[node_types.gpu]\nusable_cpus = '56'", ""),
    "qos.regular.charge_factor": ("[qos.regular]\ncharge_factor = 'half'", ""),
    "qos.debug.limits[0].max_time": ("[qos.debug]\nlimits = [{ max_nodes = 1 }]", ""),
    "environment.set.PORT": ("[environment.set]\nPORT = 29500", ""),
    "environment.modules[1]": ("[environment]\nmodules = ['a', 1]", ""),
    "srun.cpu_bin": ("[srun]\ncpu_bin = 'cores'", "did you mean 'cpu_bind'?"),
    "sources[0].url": ("[[sources]]\nkeys = ['a']\nchecked = '2026-11-21'", ""),
}


@given(st.sets(st.sampled_from(sorted(MISTAKES)), min_size=1))
def test_all_mistakes_of_a_profile_come_at_once_with_file_and_key(chosen):
    toml = {}
    for key in chosen:
        toml = merged(toml, tomllib.loads(MISTAKES[key][0]))
    with pytest.raises(InputError) as caught:
        decode(ClusterProfile, merged(tomllib.loads(SMALL), toml), "mine.toml")
    found = {problem.where: problem.fix for problem in caught.value.problems}
    assert set(found) == {f"mine.toml: {key}" for key in chosen}
    assert all(found[f"mine.toml: {key}"].startswith(MISTAKES[key][1]) for key in chosen)


def test_missing_keys_are_all_named():
    with pytest.raises(InputError) as caught:
        decode(ClusterProfile, {}, "mine.toml")
    required = [field.name for field in msgspec.structs.fields(ClusterProfile) if field.required]
    assert [problem.where for problem in caught.value.problems] == [f"mine.toml: {key}" for key in required]
    assert {problem.what for problem in caught.value.problems} == {"is missing"}


def test_a_study_that_names_no_machine_stays_possible():
    assert decode(Study, {}, "flags").cluster == ""


# ---------------------------------------------------------------- generic.toml documents the schema

GENERIC = PROFILES["generic"].read_text(encoding="utf-8")
# "#key = value" is a key without a safe default, "# word" is prose.
EVERY_KEY = re.sub(r"(?m)^#(?=\S)", "", GENERIC)


def structs_inside(kind):
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for argument in get_args(kind):
        yield from structs_inside(argument)


def undocumented(cls, data, key=""):
    """Yield the keys of the schema that the TOML `data` does not hold."""
    for field in msgspec.structs.fields(cls):
        name = f"{key}{field.name}"
        if field.name not in data:
            yield name
            continue
        for inner in structs_inside(field.type):
            value = data[field.name]
            tables = value if isinstance(value, list) else value.values() if get_origin(field.type) is dict else [value]
            missing = [set(undocumented(inner, table, f"{name}.")) for table in tables]
            yield from sorted(set.intersection(*missing)) if missing else [f"{name}.*"]


def test_generic_names_every_key_of_the_schema():
    assert list(undocumented(ClusterProfile, tomllib.loads(EVERY_KEY))) == []


def test_generic_with_every_key_in_use_is_a_valid_profile():
    decode(ClusterProfile, tomllib.loads(EVERY_KEY), "generic.toml, all keys")


@pytest.mark.parametrize("key", ["two_factor_login", "usable_cpus", "min_nodes", "cpu_bind", "activate", "confirmed"])
def test_a_key_that_generic_leaves_out_is_found(key):
    data = tomllib.loads(re.sub(rf"(?m)^{key} = .*$", "", EVERY_KEY))
    assert {name.rpartition(".")[2] for name in undocumented(ClusterProfile, data)} == {key}


def unexplained(text):
    """Return the lines with a key that have no comment in plain words above them, or above the group they stand in."""
    found, explained = [], False
    for line in text.splitlines():
        if not line.strip():
            explained = False
        elif line.startswith("# "):
            explained = True
        elif re.match(r"#?\w+ =", line) and not explained:
            found.append(line)
    return found


def test_generic_explains_every_key():
    assert unexplained(GENERIC) == []
    assert unexplained(GENERIC + "\nnew = 1\n#other = 2\n") == ["new = 1", "#other = 2"]


def test_generic_says_nothing_about_any_site():
    data = tomllib.loads(GENERIC)
    assert "sources" not in data
    assert "qos" not in data
    profile = decode(ClusterProfile, data, "generic.toml")
    for field in msgspec.structs.fields(ClusterProfile):
        if not field.required:
            default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            assert getattr(profile, field.name) == default, f"{field.name} is not the plain default"


def test_the_manual_names_the_shipped_profiles():
    text = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")
    assert [name for name in PROFILES if f"`{name}`" not in text] == []
