"""Decoding: every problem at once, each with its file and key; never another error; valid data comes through."""

import datetime
import math
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcpar.decode import decode, find_problems, nested, read_toml
from hpcpar.errors import InputError, nearest
from hpcpar.profile import ClusterProfile
from hpcpar.spec import Study

WHERE = "mine.toml"


class Leaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    word: str
    size: Annotated[int, msgspec.Meta(ge=1)] = 1
    rate: float | None = None
    mode: Literal["fast", "slow"] = "fast"


class Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    leaves: tuple[Leaf, ...] = ()
    named: dict[str, Leaf] = {}
    sizes: tuple[int, ...] = ()
    maybe: Leaf | None = None
    mixed: tuple[str | Leaf, ...] = ()
    anything: dict[str, Any] = {}
    low: int = 0
    high: int = 0

    def __post_init__(self):
        if self.low > self.high:
            raise ValueError("low must not be above high")


def problems_of(cls, data):
    """What is wrong, as {key: what}; empty where the data decodes. Every problem names the file."""
    found = ()
    try:
        decode(cls, data, WHERE)
    except InputError as error:
        found = error.problems
    assert all(p.where.startswith(WHERE) for p in found)
    return {p.where.removeprefix(WHERE + ": "): p.what for p in found}


# ---------------------------------------------------------------- nothing but InputError

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=6),
    st.dates(),
    st.sampled_from(["\ud800", "slurm", "10m", "5", "1G", 2**200, -(2**70)]),
)


def anything_under(keys):
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys) | st.text(max_size=3), inner),
        max_leaves=8,
    )


def keys_of(cls):
    return sorted({*cls.__struct_fields__, "max_time", "keys", "url", "limits", "name", "qos", "gpus_per_node"})


@pytest.mark.parametrize("cls", [ClusterProfile, Study, Tree])
def test_any_data_decodes_or_raises_input_error(cls):
    keys = keys_of(cls)

    @settings(max_examples=50, deadline=None)
    @given(st.dictionaries(st.sampled_from(keys), anything_under(keys)) | anything_under(keys))
    @example({"node_types": {"x": {"memory": "9" * 400 + "G"}}})
    @example({"time": "9" * 400 + "d", "memory": "0G"})
    @example({"name": "\ud800", "scaling": "\ud800"})
    @example({5: 6, None: 7})
    def check(data):
        problems_of(cls, data)  # another error would end the test here

    check()


# ---------------------------------------------------------------- all of them at once

# What can be wrong at one place, and where it shows; each plant is independent of the others.
PLANTS = {
    "leaves[0].word": lambda data: data["leaves"][0].update(word=5),
    "leaves[0].size": lambda data: data["leaves"][0].update(size=0),
    "leaves[0].mode": lambda data: data["leaves"][0].update(mode="fasst"),
    "leaves[1].word": lambda data: data["leaves"][1].pop("word"),
    "leaves[1].rate": lambda data: data["leaves"][1].update(rate="1"),
    "leaves[2]": lambda data: data["leaves"].__setitem__(2, 7),
    "named.a.word": lambda data: data["named"]["a"].update(word=True),
    "named.a.wrd": lambda data: data["named"]["a"].update(wrd="x"),
    "named.b": lambda data: data["named"].update(b="not a table"),
    "sizes[1]": lambda data: data["sizes"].__setitem__(1, "2"),
    "sizes[2]": lambda data: data["sizes"].__setitem__(2, 2.5),
    "maybe.size": lambda data: data["maybe"].update(size=-3),
    "mixed[0].size": lambda data: data["mixed"][0].update(size="x"),
    "mixed[1]": lambda data: data["mixed"].__setitem__(1, 1),
    "anything": lambda data: data.update(anything=[]),
    "lo": lambda data: data.update(lo=1),
    "low": lambda data: data.update(low=None),
}


def valid_tree():
    return {
        "leaves": [{"word": "a"}, {"word": "b", "rate": 1}, {"word": "c", "mode": "slow"}],
        "named": {"a": {"word": "x"}},
        "sizes": [1, 2, 3],
        "maybe": {"word": "m"},
        "mixed": [{"word": "y"}, "text"],
        "anything": {"deep": [{"deeper": None}]},
        "low": 1,
        "high": 2,
    }


def test_the_tree_without_plants_is_fine():
    assert problems_of(Tree, valid_tree()) == {}


@given(st.sets(st.sampled_from(sorted(PLANTS)), min_size=1))
def test_every_planted_problem_is_found_in_one_go(planted):
    data = valid_tree()
    for key in planted:
        PLANTS[key](data)
    assert set(problems_of(Tree, data)) == planted


def test_the_checks_of_a_struct_are_reported_beside_unknown_keys():
    assert problems_of(Tree, {"low": 3, "high": 2, "nonsense": 1}) == {
        WHERE: "low must not be above high",
        "nonsense": "unknown key",
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"named": {"a": {"word": 5}}}, "must be text, not a whole number"),
        ({"low": "5"}, "must be a whole number, not text"),
        ({"low": True}, "must be a whole number, not true or false"),
        ({"leaves": [{"word": "", "size": 0}]}, "must be a whole number >= 1, not 0"),
        ({"leaves": [{"word": "", "rate": "1"}]}, "must be a number, not text"),
        ({"leaves": [{"word": "", "rate": math.nan}]}, "must be a finite number, not nan"),
        ({"leaves": [{"word": "", "rate": -math.inf}]}, "must be a finite number, not -inf"),
        ({"leaves": [{"word": "", "mode": "fasst"}]}, "'fasst' is not allowed"),
        ({"leaves": 5}, "must be a list, not a whole number"),
        ({"leaves": [{"word": datetime.date(2026, 1, 2)}]}, "must be text, not a date"),
    ],
)
def test_messages_are_in_plain_words(data, words):
    assert list(problems_of(Tree, data).values()) == [words]


def test_a_wrong_file_is_not_told_key_by_key():
    problems = find_problems(Leaf, {"word": "", **dict.fromkeys(map(str, range(1000)), 0)}, WHERE)
    assert [problem.what for problem in problems] == ["unknown key"] * 20 + ["980 more unknown keys"]


def test_fixes_are_offered():
    (unknown,) = find_problems(Leaf, {"word": "", "modus": "fast"}, WHERE)
    assert unknown.fix.startswith("did you mean 'mode'?")
    (choice,) = find_problems(Leaf, {"word": "", "mode": "fasst"}, WHERE)
    assert choice.fix == nearest("fasst", ["fast", "slow"])
    (date,) = find_problems(Leaf, {"word": datetime.date(2026, 1, 2)}, WHERE)
    assert date.fix == 'write it in quotes: "2026-01-02"'
    (schema,) = find_problems(Study, {"schema": 2}, WHERE)
    assert schema.fix == "a file of a newer hpcpar? one of: 1"


# ---------------------------------------------------------------- what is right comes through

leaves = st.builds(
    Leaf,
    word=st.text(st.characters(blacklist_categories=["Cs"]), max_size=5),
    size=st.integers(1, 2**40),
    rate=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    mode=st.sampled_from(["fast", "slow"]),
)
trees = st.builds(
    Tree,
    leaves=st.lists(leaves, max_size=3).map(tuple),
    named=st.dictionaries(st.text("abc", min_size=1), leaves, max_size=3),
    sizes=st.lists(st.integers(-(2**62), 2**62), max_size=3).map(tuple),
    maybe=st.none() | leaves,
    mixed=st.lists(st.text("xy") | leaves, max_size=3).map(tuple),
    anything=st.dictionaries(st.text("ab"), st.none() | st.integers() | st.lists(st.booleans()), max_size=2),
    low=st.integers(0, 5),
    high=st.integers(5, 9),
)


@given(trees)
def test_valid_data_round_trips(tree):
    assert decode(Tree, msgspec.to_builtins(tree), WHERE) == tree


@given(
    st.builds(
        Study,
        nodes=st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True).map(tuple),
        steps=st.none() | st.integers(1, 1000),
        scaling=st.sampled_from(["strong", "weak"]),
        time=st.sampled_from(["", "10m", "1h30m"]),
        seed=st.integers(0, 2**31 - 1),
    )
)
def test_a_valid_study_round_trips(study):
    assert decode(Study, msgspec.to_builtins(study), WHERE) == study


def test_whole_numbers_are_numbers_and_nothing_else_is_converted():
    assert decode(Leaf, {"word": "", "rate": 1}, WHERE).rate == 1.0
    for wrong in ({"size": 1.5}, {"size": "1"}, {"rate": True}, {"word": 1}):
        assert problems_of(Leaf, {"word": "", **wrong})


# ---------------------------------------------------------------- files and flags


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    cases = {
        "missing.toml": None,
        "latin.toml": b"name = '\xe9'",
        "broken.toml": b"a = 1\nb = = 2\n",
        "twice.toml": b"a = 1\na = 2\n",
        "number.toml": b"a = " + b"9" * 5000,
        "deep.toml": b"a = " + b"[" * 5000,
    }
    for name, content in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_toml(path)
        (problem,) = caught.value.problems
        assert problem.where == str(path)
        assert problem.what
    with pytest.raises(InputError, match="line 2"):
        read_toml(tmp_path / "broken.toml")
    with pytest.raises(InputError, match="cannot read"):
        read_toml(tmp_path)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_toml(tmp_path / "bom.toml") == {"a": 1}


@given(st.text(max_size=30), st.text("ab.", max_size=6), st.text("ab.", max_size=6))
@example("9" * 5000, "a", "b")
@example("[" * 5000, "a", "b")
def test_any_flags_nest_or_raise_input_error(text, first, second):
    tree, refused = {}, set()
    try:
        tree = nested({first: text, second: text})
    except InputError as error:
        refused = {p.where for p in error.problems}
    assert refused <= {first, second, "''"}
    for dotted in () if refused else (first, second):
        branch = tree
        for part in dotted.split("."):
            branch = branch[part]
        assert not isinstance(branch, str) or branch in text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("4", 4),
        ("true", True),
        ('"4"', "4"),
        ("[1, 2]", [1, 2]),
        ("plain words", "plain words"),
        ("/data/x#1", "/data/x#1"),
        ("4 # four", "4 # four"),
        ("2026-01-02", "2026-01-02"),
        ("", ""),
        ("1\nb = 2", "1\nb = 2"),
    ],
)
def test_a_flag_is_toml_where_it_is_toml(text, value):
    assert nested({"data.path": text}) == {"data": {"path": value}}


@pytest.mark.parametrize("pairs", [{"a": "1", "a.b": "2"}, {"a.b": "2", "a": "1"}, {"a.b": "1", "a.b.c": "2"}])
def test_a_key_that_is_a_value_and_a_table_is_refused(pairs):
    with pytest.raises(InputError, match="as a value and as a table"):
        nested(pairs)


def test_numbers_that_are_none_come_through_as_numbers():
    assert math.isnan(nested({"x": "nan"})["x"])
