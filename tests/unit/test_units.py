"""Durations, memory and node lists: what is printed reads back, and what is wrong is a sentence."""

import math
import re
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcpar.units import (
    compress_nodes,
    expand_nodes,
    human_duration,
    human_memory,
    parse_duration,
    parse_memory,
    slurm_memory,
    slurm_time,
)

MINUTE, HOUR, DAY = 60, 3600, 86400
GIB = 1024**3


def refuses(parse, text):
    """Whether `parse` refuses `text` with a sentence that is short enough to read; other errors go through."""
    sentence = ""
    try:
        parse(text)
    except ValueError as error:
        sentence = str(error)
        if len(sentence.split()) < 4 or len(sentence) > len(text) + 120:
            raise
    return bool(sentence)


# ---------------------------------------------------------------- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("250ms", 0.25),
        ("30m", 30 * MINUTE),
        ("30min", 30 * MINUTE),
        ("1h30m", HOUR + 30 * MINUTE),
        ("1h 30m", HOUR + 30 * MINUTE),
        ("1.5h", HOUR + 30 * MINUTE),
        ("2d", 2 * DAY),
        (" 2d ", 2 * DAY),
        ("00:30:00", 30 * MINUTE),
        ("100:00:00", 100 * HOUR),
        ("1-12:00:00", DAY + 12 * HOUR),
        # Slurm's short forms, as in sbatch(1): "minutes:seconds" and "days-hours:minutes"
        ("90:30", 90 * MINUTE + 30),
        ("1-12:30", DAY + 12 * HOUR + 30 * MINUTE),
    ],
)
def test_durations_that_people_and_slurm_write(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "-5m",
        "1 0s",
        "h",
        "1h1h",
        "5m5min",
        "1:2",
        "00:99:00",
        "00:00:99",
        "1h30",
        "\uff11h",
        "1h\n30m",
        "1e3s",
        "inf",
    ],
)
def test_what_is_no_duration_is_refused(text):
    assert refuses(parse_duration, text)


@given(st.integers(0, 10**9))
def test_slurm_time_reads_back(seconds):
    assert parse_duration(slurm_time(seconds)) == seconds


@given(st.floats(0, 1e9))
@example(0.1)
@example(3600.0000001)
def test_slurm_time_rounds_up_to_the_next_second(seconds):
    assert parse_duration(slurm_time(seconds)) == math.ceil(seconds)


@pytest.mark.parametrize("seconds", [-1, -0.001, math.inf, math.nan])
def test_a_time_limit_is_a_finite_number_that_is_not_negative(seconds):
    with pytest.raises(ValueError, match="cannot be a time limit"):
        slurm_time(seconds)


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_units_add_up(days, hours, minutes, seconds):
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == total
    assert parse_duration(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total


@given(st.text(max_size=40) | st.from_regex(r"[\d:. -]{1,20}[a-z]{0,3}", fullmatch=True))
@example("9" * 5000 + "d")
@example("9" * 5000 + ":00")
def test_any_text_is_a_finite_duration_or_is_refused(text):
    if not refuses(parse_duration, text):
        assert 0 <= parse_duration(text) < math.inf


@given(st.floats(0, 1e9))
@example(9.96)
@example(59.7)
@example(3599.6)
def test_a_duration_for_people_reads_back_to_about_the_same(seconds):
    printed = human_duration(seconds)
    step = 0.05 if seconds < 10 else 0.5 if seconds < HOUR - 1 else MINUTE if seconds < DAY - 1 else HOUR
    # It is rounded to the smallest unit that it shows, hours and days are cut off.
    assert parse_duration(printed) == pytest.approx(seconds, abs=step + 0.5)
    assert printed != "10.0s"
    assert not re.search(r"\b60[sm]|\b24h", printed)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64GiB", 64 * GIB),
        ("64GB", 64 * GIB),
        ("64G", 64 * GIB),
        ("64 gib", 64 * GIB),
        ("512M", 512 * 1024**2),
        ("1.5T", 1536 * GIB),
        ("16384M", 16 * GIB),
    ],
)
def test_memory_is_binary_as_in_slurm(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "64", "0", "0G", "0.0M", "-1G", "64B", "GiB", "1e3G", "1G1M", "6 4G", "G64"])
def test_what_is_no_memory_is_refused(text):
    # "0G" would become --mem=0, and to Slurm that is the whole node.
    assert refuses(parse_memory, text)


@given(st.integers(1, 10**15))
def test_slurm_memory_reads_back_and_rounds_up(num_bytes):
    back = parse_memory(slurm_memory(num_bytes))
    assert 0 <= back - num_bytes < 1024**2


@given(st.integers(1, 10**12), st.sampled_from("KMGTP"), st.sampled_from(["", "i", "B", "iB"]))
def test_memory_is_exact(number, prefix, ending):
    assert parse_memory(f"{number}{prefix}{ending}") == number * 1024 ** ("KMGTP".index(prefix) + 1)


@given(st.text(max_size=20) | st.from_regex(r"[\d. ]{1,20}[KMGTPkmgtp]?i?B?", fullmatch=True))
@example("9" * 5000 + "G")
def test_any_text_is_memory_or_is_refused(text):
    if not refuses(parse_memory, text):
        assert parse_memory(text) > 0


@given(st.integers(0, 2**50))
@example(1024**2 - 1)
def test_memory_for_people_reads_back_to_within_its_last_digit(num_bytes):
    number, unit = human_memory(num_bytes).split()
    scale = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    digit = Fraction(1, 20) if "." in number else Fraction(1, 2)
    assert abs(Fraction(number) * scale - num_bytes) <= digit * scale
    assert Fraction(number) < 1024 or unit == "TiB"


# ---------------------------------------------------------------- node lists

NODE_NAMES = st.one_of(
    st.builds("{}{}".format, st.sampled_from(["n", "node-", "r1c", "x1000c0s0b0n", ""]), st.integers(0, 2000)),
    st.builds("{}{:03d}".format, st.sampled_from(["n", "nid"]), st.integers(0, 1200)),
    st.text(st.characters(blacklist_categories=["Z", "C"], blacklist_characters=",[]"), min_size=1, max_size=12),
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n[1-3,07],login", ["n1", "n2", "n3", "n07", "login"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("r[1-2]-ib", ["r1-ib", "r2-ib"]),
        ("n1, n2", ["n1", "n2"]),
        ("", []),
    ],
)
def test_node_lists_as_slurm_prints_them(text, names):
    assert expand_nodes(text) == names


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["n1", "n2", "n3", "n07"], "n07,n[1-3]"),
        (["n9", "n10", "n8"], "n[8-10]"),
        (["n1", "n1"], "n1"),
        (["n1", "n3"], "n[1,3]"),
        (["b", "a"], "a,b"),
        ([], ""),
    ],
)
def test_node_names_are_grouped(names, text):
    assert compress_nodes(names) == text


@given(st.sets(NODE_NAMES, max_size=40))
@example({"n" + "1" * 5000, "n" + "0" * 40})
def test_a_node_list_gives_the_same_names_back(names):
    back = expand_nodes(compress_nodes(names))
    assert sorted(back) == sorted(names)


@given(st.integers(0, 999), st.integers(0, 500), st.integers(1, 6))
def test_zero_padding_is_kept(first, count, width):
    names = [f"n{number:0{width}d}" for number in range(first, first + count + 1)]
    assert sorted(expand_nodes(compress_nodes(names))) == sorted(names)
    assert expand_nodes(f"n[{first:0{width}d}-{first + count:0{width}d}]") == names


@pytest.mark.parametrize(
    "text",
    [
        "n[1-3",
        "n1-3]",
        "n[[1]]",
        "n[]",
        "n[1,,2]",
        "n[3-1]",
        "n[a]",
        "n[1-b]",
        "n[-1]",
        "n[1-2-3]",
        "n[0-1000000]",
        "n[0-999999][0-999999]",
        "n[1-999999],m[1-999999]",
        f"n[1-{'9' * 5000}]",
        "n[\u00b9-\u00b2]",
    ],
)
def test_what_is_no_node_list_is_refused_at_once(text):
    assert refuses(expand_nodes, text)


@pytest.mark.parametrize("name", ["", "a,b1", "a[1]", "a b7", "a\n"])
def test_a_name_that_no_node_has_costs_no_other_name(name):
    assert compress_nodes(["n1", name, "n2"]) == ",".join(filter(None, [name, "n[1-2]"]))


@given(st.text("n1[]-,0 9", max_size=20))
def test_any_text_is_a_node_list_or_is_refused(text):
    if not refuses(expand_nodes, text):
        assert all(name and not set(name) & set("[],") for name in expand_nodes(text))
