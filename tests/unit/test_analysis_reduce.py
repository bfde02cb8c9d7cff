"""A run folder to a row: known runs give known rows, and no damage ever raises or goes unseen."""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records_oracle import Oracle, Truth, change_record, loss_at, peak_bytes, refuse

from hpcpar import records
from hpcpar.analysis.rows.reduce import UNREADABLE, Row, reduce_run
from hpcpar.records import Cause, Event
from hpcpar.spec import SCHEMA, Submission

ORACLE = Oracle(truths={"ddp": Truth(0.01, 0.002)}, tokens_per_sample=128)
MEAN_ROUNDING = 1e-12
"""Relative: a mean over thirty steps whose scatter was centred in floating point."""


@pytest.fixture
def run(tmp_path):
    return ORACLE.write_run(tmp_path, "ddp", 2, 1)


def test_a_whole_run_gives_back_what_was_put_in(run):
    row = reduce_run(run)

    truth_s = 0.01 + 0.002 * 64 / 4
    assert row.step_time_s == pytest.approx(truth_s, rel=MEAN_ROUNDING)
    assert row.samples_per_s == pytest.approx(64 / truth_s, rel=MEAN_ROUNDING)
    assert row.tokens_per_s == pytest.approx(64 * 128 / truth_s, rel=MEAN_ROUNDING)
    assert (row.state, row.cause, row.attempts, row.attempt) == ("done", "ok", 1, "1.0")
    assert (row.nodes, row.ranks, row.global_batch, row.mesh) == (2, 4, 64, "dp_replicate=4")
    assert (row.steps_planned, row.steps_measured, row.steps_used, row.too_few_steps) == (40, 40, 30, False)
    assert row.loss_last == loss_at(40)
    assert row.peak_memory_bytes == peak_bytes(3)  # the largest over ranks
    assert (row.hosts, row.machines) == ("n[1-2]", ("boot-1", "boot-2"))
    assert (row.wall_s, row.phases["train"]) == (100.0, 90.0)
    assert row.usable


def test_the_warm_up_cut_can_be_changed_at_collect_time(run):
    default, none = reduce_run(run), reduce_run(run, warmup_steps=0)

    # Ten warm-up steps are five times slower: (10 x 5 + 30) / 40 of the truth.
    assert none.step_time_s == pytest.approx(default.step_time_s * 80 / 40, rel=MEAN_ROUNDING)
    assert (none.warmup_steps, none.steps_used) == (0, 40)


def test_without_tokens_there_is_no_token_rate(tmp_path):
    folder = Oracle(truths={"ddp": Truth(0.01, 0.002)}).write_run(tmp_path, "ddp", 1, 1)

    assert reduce_run(folder).tokens_per_s is None


def test_steps_come_from_the_attempt_that_made_the_record(run):
    stray = Event(time=ORACLE.begun_s + 10**6, kind="start", host="n9")
    records.append(run.events_path("9.0"), stray)
    for step in ORACLE.step_lines(1000.0, 40):
        records.append(run.steps_path("9.0"), step)

    row = reduce_run(run)

    assert (row.attempt, row.attempts) == ("1.0", 2)
    assert row.step_time_s < 1


def test_a_run_that_was_planned_and_never_ran_is_a_row(tmp_path):
    oracle = Oracle(truths={"ddp": Truth(0.01, 0.002)}, never_ran=frozenset({("ddp", 1, 1)}))

    row = reduce_run(oracle.write_run(tmp_path, "ddp", 1, 1))

    assert (row.state, row.message, row.nodes, row.step_time_s) == ("planned", "not submitted", 1, None)
    assert not row.too_few_steps


def test_a_failed_run_keeps_its_cause_and_has_no_time(tmp_path):
    oracle = Oracle(truths={"ddp": Truth(0.01, 0.002)}, failures={("ddp", 1, 1): Cause.OOM_DEVICE})

    row = reduce_run(oracle.write_run(tmp_path, "ddp", 1, 1))

    assert (row.state, row.cause) == ("failed", "oom_device")
    assert "it died of oom_device" in row.message
    assert (row.step_time_s, row.steps_measured, row.too_few_steps) == (None, 20, True)


def test_a_run_whose_record_says_that_it_failed_is_no_evidence(run):
    change_record(run, cause=Cause.DATA, notes=["the data set ended"])

    row = reduce_run(run)

    assert (row.state, row.cause, row.message, row.usable) == ("failed", "data", "the data set ended", False)


def test_a_vanished_run_says_so(tmp_path):
    folder = ORACLE.write_run(tmp_path, "ddp", 1, 1)
    folder.record_path.unlink()
    gone = Submission(
        kind="ended", time=ORACLE.begun_s, batch="b", scheduler="slurm", job_id="1", state="FAILED", exit_code="1:0"
    )
    records.append(folder.submission_path, gone)

    row = reduce_run(folder)

    assert (row.state, row.cause) == ("failed", "vanished")
    assert row.message


def test_a_record_of_another_run_is_no_result(run):
    change_record(run, key="0123456789")

    row = reduce_run(run)

    assert (row.state, row.cause, row.usable) == ("failed", "data", False)
    assert row.message.count("record.json belongs to another run (0123456789)") == 1


def test_a_record_that_may_not_be_read_is_no_failure(run, monkeypatch):
    refuse(monkeypatch, run.record_path)

    row = reduce_run(run)

    assert (row.state, row.cause, row.usable) == (UNREADABLE, "", False)
    assert row.message == "record.json cannot be read: Permission denied"


def test_a_damaged_record_is_no_result_and_counted(run):
    run.record_path.write_bytes(run.record_path.read_bytes()[:-10])

    row = reduce_run(run)

    assert not row.usable
    assert row.rejected_lines == 1
    assert "record.json is damaged" in row.message


@pytest.mark.parametrize(
    ("spec", "words"),
    [(None, "missing"), (b"{", "damaged"), (b"", "damaged"), (b"[]", "damaged"), (b"\0" * 64, "damaged")],
)
def test_without_a_readable_spec_there_is_still_a_row(run, spec, words):
    if spec is None:
        run.spec_path.unlink()
    else:
        run.spec_path.write_bytes(spec)

    row = reduce_run(run)

    assert (row.state, row.run, row.study) == (UNREADABLE, run.path.name, "oracle")
    assert row.message == f"spec.json is {words}"


@pytest.mark.parametrize("field", ["nodes", "ranks_per_node", "global_batch", "steps"])
@pytest.mark.parametrize("size", [0, -1, 10**13])
def test_impossible_sizes_are_damage(run, field, size):
    spec = json.loads(run.spec_path.read_bytes())
    spec["identity"][field] = size
    run.spec_path.write_text(json.dumps(spec))

    row = reduce_run(run)

    assert row.state == UNREADABLE
    assert f"{field} {size}" in row.message


@pytest.mark.parametrize(
    ("started", "ended"), [(1e9, 1e300), (1e9, 0.0), (1e9, 1e9 - 1.0), (-5.0, 1e9), (1e300, 1e300)]
)
def test_impossible_times_are_left_out_and_said(run, started, ended):
    record = run.record()
    records.append(run.events_path(record.attempt), Event(time=record.ended, kind="script_exit", data={"code": 0}))
    before = reduce_run(run)
    change_record(run, started=started, ended=ended)

    row = reduce_run(run)

    assert row.usable
    assert row.step_time_s == before.step_time_s
    assert (row.started, row.ended, row.wall_s, row.effective_time_ratio) == (None, None, None, None)
    assert row.measured_node_h == pytest.approx(before.measured_node_h, rel=0.01), "by its events"
    assert "idle" not in row.phases
    assert any("its times were left out" in note for note in row.notes)


def test_a_newer_schema_is_read_and_said(run):
    change_record(run, schema=SCHEMA + 1)

    assert any("newer hpcpar" in note for note in reduce_run(run).notes)


def test_a_result_that_only_a_newer_version_can_read_is_no_failure(run):
    run.record_path.write_text(json.dumps({"schema": SCHEMA + 1, "cause": "ok", "ranks": "another shape"}))

    row = reduce_run(run)

    assert (row.state, row.cause, row.usable, row.rejected_lines) == (UNREADABLE, "", False, 0)
    assert "of a newer version" in row.message
    assert "update hpcpar" in row.message


@pytest.mark.parametrize("impossible", [-1, 10**400])
def test_memory_that_no_machine_has_is_no_number(run, impossible):
    record = run.record()
    record.ranks[1].peak_memory_bytes = impossible
    change_record(run, ranks=record.ranks)
    assert reduce_run(run).peak_memory_bytes == peak_bytes(3)  # the ranks that can be believed

    for fact in record.ranks:
        fact.peak_memory_bytes = impossible
    change_record(run, ranks=record.ranks)
    assert reduce_run(run).peak_memory_bytes is None


def test_a_loss_that_ends_not_finite_is_marked(run):
    change_record(run, loss_last=None)

    row = reduce_run(run)

    assert (row.loss_last, row.loss_diverged) == (None, True)


def test_torn_lines_and_nul_tails_cost_their_own_line_only(run):
    path = run.steps_path("1.0")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        b"".join([*lines[:20], b"torn by a stray print\n", lines[20][:7], b"\n", *lines[21:], b"\0" * 512])
    )

    row = reduce_run(run)

    assert (row.rejected_lines, row.steps_measured, row.usable) == (2, 39, True)


@pytest.mark.parametrize("attempt", ["../../etc", "a\0b", "", "x" * 300])
def test_a_record_that_names_an_impossible_attempt_has_no_time(run, attempt):
    change_record(run, attempt=attempt)

    row = reduce_run(run)

    assert (row.usable, row.message) == (False, "no step was recorded")


FILES = ("spec.json", "submission.jsonl", "events.1.0.jsonl", "steps.1.0.jsonl", "record.json")


def _flip(content, places):
    damaged = bytearray(content)
    for place, value in places:
        damaged[place % len(damaged)] = value
    return bytes(damaged)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
EXTREMES = st.sampled_from(
    [0, -1, 10**9, 10**12, 10**400, 1e308, -1e308, 5e-324, "", "a\0b", "../..", "ok", True, [], {}]
)
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 20_000)),
    st.tuples(st.just("nul tail"), st.integers(1, 3000)),
    st.tuples(st.just("garbage"), st.binary(max_size=200)),
    st.tuples(st.just("stray line"), st.text(max_size=50)),
    st.tuples(st.just("flip"), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)),
    st.tuples(st.just("value"), st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), EXTREMES | JSON)),
)


def _replace_value(content, place, leaf, value):
    """Give one value of one document (a file, or a line of it) another value of any type."""
    lines = [content] if content.startswith(b"{\n") else content.splitlines()
    document = json.loads(lines[place % len(lines)])
    spots = list(_spots(document))
    holder, key = spots[leaf % len(spots)]
    holder[key] = value
    lines[place % len(lines)] = json.dumps(document).encode()
    return b"\n".join(lines) + b"\n"


def _spots(node):
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _spots(node[key])


def _damage(content, kind, how):
    middle = len(content) // 2
    if kind == "cut":
        return content[: how % (len(content) + 1)]
    if kind == "nul tail":
        return content + b"\0" * how
    if kind == "garbage":
        return how
    if kind == "stray line":
        return content[:middle] + how.encode() + b"\n" + content[middle:]
    if kind == "flip":
        return _flip(content, how) if content else content
    return _replace_value(content, *how)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = ORACLE.write_run(tmp_path_factory.mktemp("fuzz"), "ddp", 2, 1)
    assert sorted(path.name for path in folder.path.iterdir() if path.is_file()) == sorted(FILES)
    return folder, {name: (folder.path / name).read_bytes() for name in FILES}


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FILES), DAMAGE, min_size=1, max_size=3))
def test_no_damage_raises_and_every_row_can_be_stored(pristine, plan):
    folder, contents = pristine
    for name, content in contents.items():
        (folder.path / name).write_bytes(_damage(content, *plan[name]) if name in plan else content)

    row = reduce_run(folder)

    assert msgspec.json.decode(msgspec.json.encode(row), type=Row) == row
    assert row.state
    assert row.step_time_s is None or row.step_time_s > 0
    assert row.usable or row.message or row.cause  # never a silent gap


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_any_byte_gives_a_row(pristine, name):
    folder, contents = pristine
    whole = contents[name]
    for other, content in contents.items():
        (folder.path / other).write_bytes(content)
    for cut in range(
        0, len(whole), max(1, len(whole) // 150)
    ):  # some 150 places a file, all kinds of borders among them
        (folder.path / name).write_bytes(whole[:cut])
        row = reduce_run(folder)
        assert row.usable or row.message, (name, cut)


# ---------------------------------------------------------------- runs that went on from a checkpoint


def interrupted(run, kept):
    """Split a whole run: attempt 0.9 did `kept` updates that count, and five more that were lost; 1.0 did the rest."""
    steps = run.steps("1.0").records
    begun = run.record().started
    run.steps_path("1.0").unlink()
    for name, part, start in (("0.9", steps[: kept + 5], begun - 200), ("1.0", steps[kept:], begun)):
        for one in part:
            records.append(run.steps_path(name), one)
        if name == "0.9":
            records.append(run.events_path(name), Event(time=start, kind="start"))
            records.append(run.events_path(name), Event(time=start + 50.0, kind="script_exit", data={"code": 137}))
    spans = [{"attempt": "0.9", "first": 1, "last": kept}, {"attempt": "1.0", "first": kept + 1, "last": len(steps)}]
    change_record(run, lineage=spans)


def test_a_run_that_went_on_counts_every_step_once_and_says_what_was_lost(run):
    whole = reduce_run(run)
    interrupted(run, 20)
    row = reduce_run(run)

    assert (row.steps_measured, row.duplicate_steps, row.replayed_steps) == (40, 0, 5)
    assert row.steps_used == 20  # ten of warm-up in each attempt
    assert row.step_time_s == pytest.approx(whole.step_time_s, rel=0.2)
    assert row.attempts == 2
    assert row.loss_last == loss_at(40)
    assert "went on from a checkpoint before step 21" in row.notes
    assert whole.replayed_steps == 0
    # Fifty seconds more for the same updates.
    assert 0 < row.effective_time_ratio < whole.effective_time_ratio < 1
    assert whole.goodput_updates_per_s == pytest.approx(40 / 100)
    assert row.goodput_updates_per_s == pytest.approx(40 / 150)


def submitted(run, job_id, seconds_before):
    line = Submission(time=run.record().started - seconds_before, batch="b", scheduler="slurm", job_id=job_id)
    run.submission_path.unlink(missing_ok=True)
    records.append(run.submission_path, line)


def test_phases_add_up_from_the_scheduler_s_acceptance_to_the_result(run):
    submitted(run, "1", 30.0)
    row = reduce_run(run)

    assert row.phases["queue"] == 30.0
    assert row.total_s == pytest.approx(130.0)
    assert row.phases["idle"] == pytest.approx(100.0 - sum(run.record().phases.values()))


def test_phases_of_a_run_that_went_on_begin_with_its_first_attempt(run):
    submitted(run, "0", 230.0)
    interrupted(run, 20)
    row = reduce_run(run)

    # Thirty seconds in the queue, fifty in the first attempt, 150 until the second one, and that one's hundred.
    assert (row.phases["queue"], row.phases["earlier"]) == (30.0, 50.0)
    assert row.total_s == pytest.approx(330.0)
    assert row.phases["idle"] == pytest.approx(150.0 + 100.0 - sum(run.record().phases.values()))


def test_without_the_scheduler_s_word_there_is_no_queue(run):
    submitted(run, "another", 30.0)
    row = reduce_run(run)

    assert "queue" not in row.phases
    assert row.total_s == pytest.approx(100.0)


def test_phases_that_are_longer_than_the_run_are_not_made_to_fit(run):
    change_record(run, phases={"start": 50.0, "train": 90.0})

    assert reduce_run(run).phases == {"start": 50.0, "train": 90.0}


def test_skipped_updates_are_no_goodput(run):
    whole = reduce_run(run)
    steps = run.steps("1.0").records
    run.steps_path("1.0").unlink()
    for step in steps:
        records.append(run.steps_path("1.0"), msgspec.structs.replace(step, applied=step.step > 10))

    assert reduce_run(run).goodput_updates_per_s == pytest.approx(whole.goodput_updates_per_s * 30 / 40)
    assert reduce_run(run).effective_time_ratio < whole.effective_time_ratio


def test_a_result_that_was_made_again_lost_nothing(run):
    records.append(run.events_path("0.9"), Event(time=1.0, kind="start"))
    records.append(run.events_path("0.9"), Event(time=9.0, kind="exit", data={"cause": "ok"}))
    for step in ORACLE.step_lines(1.0, 40):
        records.append(run.steps_path("0.9"), step)

    assert reduce_run(run).replayed_steps == 0


def test_a_lineage_that_repeats_itself_counts_no_step_twice(run):
    interrupted(run, 20)
    lineage = [{"attempt": "0.9", "first": 1, "last": 20}] * 3 + [{"attempt": "1.0", "first": 21, "last": 40}]
    change_record(run, lineage=lineage)

    assert (reduce_run(run).steps_measured, reduce_run(run).duplicate_steps) == (40, 0)
