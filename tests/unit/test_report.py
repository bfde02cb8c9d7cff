"""What is handed on: one page without scripts or network, LaTeX that runs nothing, points for Extra-P, proposals."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import msgspec
import pytest
from records_oracle import Oracle, Truth, ideal

from hpcpar.analysis.collect import collect
from hpcpar.analysis.figures import scaling
from hpcpar.analysis.report import extrap, latex
from hpcpar.analysis.report.proposal import PROGRAMMES, write
from hpcpar.analysis.report.proposal_parts import YOURS, Request
from hpcpar.analysis.report.vector import inline
from hpcpar.analysis.text.summary import MOST, summary
from hpcpar.records import Cause

HOSTILE = (
    "<script>alert(1)</script>\x1b[31m $\\input{/etc/passwd}$ %&#_{}~^\"'` [a]--b | {{7*7}} {% raw %}\u202e<img src=x>"
)
SLOW = {"ddp": Truth(0.010, 0.0020), "pp": Truth(0.030, 0.0020)}
ORACLE = Oracle(truths=SLOW, nodes=(1, 2, 4, 8), noise=0.01)


class Seen(HTMLParser):
    """Elements, their attributes, and whether every element that was opened was closed."""

    VOID = frozenset({"meta", "link", "br", "img", "hr"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    replace(ORACLE, failures={("pp", 8, 1): Cause.OOM_HOST}).write(root)
    return collect([root])


@pytest.fixture(scope="module")
def page(results):
    return results.to_html()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    runs = Oracle(truths={HOSTILE: Truth(0.01, 0.002), "ddp": Truth(0.01, 0.001)}, workload=HOSTILE).write(root)
    record = runs[0].record()
    runs[0].record_path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, notes=[HOSTILE])))
    return collect([root])


def test_the_page_is_whole_and_every_id_is_its_own(page):
    seen = Seen(page)

    ids = [attributes["id"] for _, attributes in seen.elements if "id" in attributes]
    assert not seen.open
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in seen.elements if tag == "a" and a["href"].startswith("#")]
    assert links
    assert {link[1:] for link in links} <= set(ids)


def test_the_page_loads_nothing_and_runs_nothing(page):
    elements = Seen(page).elements

    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in elements}
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, name)
    assert re.findall(r"@import|url\((?!#)", page) == []
    policy = next(a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_summary_first_then_tables_runs_methods_provenance(results, page):
    places = [page.index(f'id="{name}"') for name in ("summary", "s1", "runs", "methods", "provenance")]

    assert places == sorted(places)
    for line in summary(results):
        assert line.text.replace("'", "&#39;") in page
    assert "1 run of 24 without a result: 1 oom_host." in page


def test_every_figure_has_words_for_those_who_cannot_see_it(page):
    seen = Seen(page)

    pictures = [attributes for tag, attributes in seen.elements if tag == "svg"]
    ids = {attributes.get("id") for _, attributes in seen.elements}
    assert len(pictures) == 6
    for attributes in pictures:
        assert attributes["role"] == "img"
        assert set(attributes["aria-labelledby"].split()) <= ids


def test_hostile_names_are_text_on_the_page(hostile):
    page = hostile.to_html()
    seen = Seen(page)

    assert not seen.open
    assert not {"script", "img"} & {tag for tag, _ in seen.elements}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "{{7*7}}" in page  # neither our template nor a later one has computed it


def test_a_figure_inside_a_page_keeps_its_references(results):
    svg = scaling.draw(results.tables[0], 0.75, "svg")

    root = ET.fromstring(inline(svg, "here", HOSTILE, "said"))

    ids = {node.get("id") for node in root.iter() if node.get("id")}
    used = re.findall(r'(?:url\(|href="|")#([^)"]+)', ET.tostring(root, encoding="unicode"))
    assert used
    assert set(used) <= ids
    assert all(name.startswith("here-") for name in ids)


def test_without_matplotlib_the_page_says_why_it_has_no_figures(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    page = results.to_html()

    assert "<svg" not in page
    assert "hpcpar[report]" in page


@pytest.mark.full
@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        *(("record.json", '"train":', v) for v in ("1e308", "-5")),
        *(("record.json", f'"{name}":', v) for name in ("started", "ended", "loss_last") for v in ("1e308", "-1e308")),
        ("record.json", '"peak_memory_bytes":', "999999999999999"),
        *(("steps", '"loss":', v) for v in ("1e308", "-1e308", "5e-324", "0")),
        *(("steps", '"time_s":', v) for v in ("1e-9", "1e9")),
        *(("steps", '"data_s":', v) for v in ("1e308", "-1e308")),
        ("spec.json", '"global_batch": ', "999999999999"),
        ("spec.json", '"nodes": ', "999999999"),
    ],
)
def test_no_damaged_number_stops_a_figure(tmp_path, file, key, value, every):
    runs = replace(ORACLE, nodes=(1, 2), repeats=2).write(tmp_path)
    for run in runs if every else runs[:1]:
        for path in run.path.glob(f"{file}*"):
            path.write_text(re.sub(f"{re.escape(key)}-?[0-9][0-9.e+-]*", f"{key}{value}", path.read_text()))

    found = collect([tmp_path])

    assert found.to_html()
    assert found.to_latex()
    assert found.to_text(width=90, chart=True)


# ---------------------------------------------------------------- what a person acts on


def test_the_summary_says_first_what_went_wrong_and_each_verdict_once(results):
    lines = summary(results)

    assert lines[0].text == "1 run of 24 without a result: 1 oom_host."
    texts = [line.text for line in lines]
    assert sum("step time: deteriorates" in text for text in texts) == 1
    assert not any("throughput: deteriorates" in text for text in texts)  # the step time says it


def test_the_summary_ends_where_a_screen_does(results):
    most = summary(results, most=1)

    assert len([line for line in most if line.text.startswith("...")]) == 2
    assert any(re.fullmatch(r"\.\.\. and 1 more result below\.", line.text) for line in most)


def test_the_terminal_begins_with_the_summary_and_names_where_the_rest_is(results):
    text = results.to_text()

    assert text.startswith("Summary\n\n  1 run of 24 without a result")
    assert text.rstrip().endswith("hpcpar collect --out report")
    assert "Welch" not in text


def test_a_terminal_says_once_what_holds_for_many_tables(tmp_path):
    for number in range(MOST + 2):
        study = f"study{number}"
        truths = {"ddp": Truth(0.010, 0.0020), "pp": Truth(0.0112, 0.00224)}
        Oracle(truths=truths, nodes=(1,), repeats=1, study=study, begun_s=1e6 * (number + 1)).write(tmp_path)

    text = collect([tmp_path]).to_text(width=400)

    assert re.search(rf"No verdict\n\n  In {MOST + 2} tables: Not enough runs: pp@1 \(step time\)", text)
    assert re.search(r"Findings\n(\n?  .*){8}\n  \.\.\. and \d+ more: hpcpar collect --format md\n", text)


def test_a_terminal_shows_efficiencies_as_bars(results):
    charts = results.to_text(width=100, chart=True).split("Efficiency (100 % = ideal)")[1]

    lengths = {
        line.split("\u2588")[0].strip(): line.count("\u2588") for line in charts.splitlines() if "\u2588" in line
    }
    assert lengths["ddp on 2"] > lengths["ddp on 4"] > lengths["pp on 8"] > 0
    assert "\u2588" not in results.to_text(width=100)


# ---------------------------------------------------------------- LaTeX


def test_latex_has_the_rows_of_the_table(results):
    text = results.to_latex()

    table = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert table.count(r"\\") == len(results.tables[0].cells)
    assert r"efficiency (\%)" in text
    for begin, end in ((r"\begin{table*}", r"\end{table*}"), (r"\begin{tabular}", r"\end{tabular}")):
        assert text.count(begin) == text.count(end) == 2


def test_nothing_in_a_name_is_a_command_of_latex(hostile):
    ours = {"textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar", "textquotedbl"}
    ours |= {"textasciigrave"}

    found = latex.escape(HOSTILE)

    assert set(re.findall(r"\\([A-Za-z]+)", found)) <= ours
    bare = re.sub(r"\\[A-Za-z]+\{\}|\\[{}$&#%_]|\{[\[\]]\}|-\{\}-", "", found)
    assert not set('\\{}$&#%_^~<>|"') & set(bare)
    assert "/etc/passwd" in hostile.to_latex()


@pytest.mark.full
def test_latex_sets_the_tables_hostile_names_and_all(hostile, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "page.tex").write_text(head + hostile.to_latex() + r"\end{document}")

    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)

    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
    assert "root:" not in done.stdout


# ---------------------------------------------------------------- Extra-P


def test_a_line_a_run_and_metric_for_extrap(results):
    lines = [json.loads(line) for line in extrap.lines(results.tables[0]).splitlines()]

    times = [line for line in lines if line["metric"] == "step_time_s"]
    assert len(times) == 23
    assert {line["callpath"] for line in lines} == {"ddp", "pp"}
    costs = [line for line in lines if line["metric"] == "rank_seconds_per_step"]
    for time, cost in zip(times, costs, strict=True):
        assert cost["params"] == time["params"]
        assert cost["value"] == time["params"]["ranks"] * time["value"]


def test_weak_scaling_has_no_cost_and_series_share_their_sizes(tmp_path):
    ideal(scaling="weak").write(tmp_path)
    ORACLE.write(tmp_path / "x")
    for run in replace(ORACLE, truths={"pp": SLOW["pp"]}, nodes=(8,)).write(tmp_path / "gone"):
        record = tmp_path / "x" / "oracle" / run.path.name / "record.json"
        record.unlink(missing_ok=True)

    weak, strong = (collect([tmp_path / name]).tables[0] for name in ("oracle", "x"))

    assert {json.loads(line)["metric"] for line in extrap.lines(weak).splitlines()} == {"step_time_s"}
    ranks = {(line["callpath"], line["params"]["ranks"]) for line in map(json.loads, extrap.lines(strong).splitlines())}
    assert {path for path, _ in ranks} == {"ddp", "pp"}
    assert max(rank for _, rank in ranks) == 8


@pytest.mark.full
def test_extrap_reads_the_points_and_finds_what_they_were_made_of(tmp_path):
    reader = pytest.importorskip("extrap.fileio.file_reader.jsonlines_file_reader", reason="Extra-P is not installed")
    from extrap.modelers.model_generator import ModelGenerator

    truth = Oracle(truths={"ddp": Truth(0.010, 0.0020)}, nodes=(1, 2, 4, 8, 16, 32), repeats=5)
    truth.write(tmp_path)
    path = tmp_path / "extrap.jsonl"
    path.write_text(extrap.lines(collect([tmp_path]).tables[0]))

    generator = ModelGenerator(reader.read_jsonlines_file(path))
    generator.model_all()
    found = {metric.name: model.hypothesis.function for (_, metric), model in generator.models.items()}

    cost = found["rank_seconds_per_step"]
    # ranks x time = sample_s x global_batch + serial_s x ranks
    assert cost.constant_coefficient == pytest.approx(0.0020 * 64, rel=1e-3)
    assert [term.coefficient for term in cost.compound_terms] == [pytest.approx(0.010, rel=1e-3)]


# ---------------------------------------------------------------- proposals


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_every_programme_has_all_its_headings_in_order(results, programme):
    found = write(results, programme, Request(8))

    titles = [line[3:] for line in found.text.splitlines() if line.startswith("## ")]
    assert titles == ["What is still missing", *(heading.title for heading in PROGRAMMES[programme].headings)]
    assert all(f"- {gap}" in found.text for gap in found.gaps)


def test_what_a_proposal_lacks_is_named(results):
    gaps = write(results, "eurohpc", Request(32)).gaps

    assert any("ddp: largest requested job 32 nodes, largest measured 8: add a point" in gap for gap in gaps)
    assert any("no weak scaling was measured: submit a study with --scaling weak" in gap for gap in gaps)
    assert any("pp has fewer than 3 runs on 8 nodes: raise --repeats" in gap for gap in gaps)


def test_a_whole_study_lacks_nothing(tmp_path):
    ORACLE.write(tmp_path)
    replace(ORACLE, scaling="weak", study="weak", begun_s=1e9).write(tmp_path)

    for programme in PROGRAMMES:
        assert write(collect([tmp_path]), programme, Request(8)).gaps == []


def test_costs_are_node_hours_of_the_measured_step(tmp_path):
    ideal().write(tmp_path)
    results = collect([tmp_path])

    text = write(results, "ncar", Request(4)).text

    hours = 1000 * results.tables[0].cells[0].step_time_s.value / 3600
    row = next(line for line in text.splitlines() if line.startswith("| clockwork, ddp "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[2].split()[0]) == pytest.approx(hours, rel=1e-3)
    assert float(cells[3].split()[0]) == pytest.approx(2 * hours, rel=1e-3)  # two ranks of one CPU
    assert cells[-1] == YOURS


def test_one_machine_that_plays_many_is_no_evidence_for_a_proposal(tmp_path):
    replace(ORACLE, oversubscribed_from=1).write(tmp_path)

    gaps = write(collect([tmp_path]), "archer2", Request(8)).gaps

    assert any("nothing may be concluded from ddp" in gap for gap in gaps)


# ---------------------------------------------------------------- Parquet


def test_parquet_holds_what_the_frames_hold(results):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the extra parquet)")
    import io

    from hpcpar.analysis.outputs import parquet

    files = parquet(results)

    names = ("cost", "factors", "laws", "pipelines", "runs", "scaling", "sizeup", "verdicts")
    assert sorted(files) == [f"{name}.parquet" for name in names]
    assert files == parquet(results)
    table = pq.read_table(io.BytesIO(files["scaling.parquet"])).to_pydict()
    assert table["step_time_s"] == results.scaling["step_time_s"].tolist()
