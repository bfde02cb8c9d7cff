"""The report in a real browser: light, dark, narrow, on paper, without scripts, offline."""

import shutil

import pytest
from records_oracle import Oracle, Truth

from hpcpar.analysis.collect import collect
from hpcpar.records import Cause

pytestmark = pytest.mark.full
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    Oracle(
        truths={"ddp": Truth(0.010, 0.0020), "pp": Truth(0.030, 0.0019), HOSTILE: Truth(0.010, 0.0021)},
        nodes=(1, 2, 4, 8),
        noise=0.02,
        failures={("pp", 8, 1): Cause.OOM_HOST},
    ).write(root)
    path = root / "report.html"
    path.write_text(collect([root]).to_html())
    return path


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make browser)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine (make browser)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(chromium, page):
    """Open the report as somebody would; fail on anything that it asks for, says or runs."""
    opened, trouble = [], []

    def open_page(**options):
        context = chromium.new_context(java_script_enabled=True, offline=True, **options)
        shown = context.new_page()
        shown.on("request", lambda r: trouble.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        shown.on("console", lambda said: trouble.append(said.text))
        shown.on("pageerror", lambda error: trouble.append(str(error)))
        shown.on("dialog", lambda dialog: trouble.append(dialog.message))
        shown.goto(page.as_uri())
        opened.append(context)
        return shown

    yield open_page
    for context in opened:
        context.close()
    assert trouble == []


def luminance(shown, selector, what):
    """How bright a colour is, 0 to 1, as the browser computed it (WCAG 2.2, relative luminance)."""
    text = shown.evaluate("([s, w]) => getComputedStyle(document.querySelector(s))[w]", [selector, what])
    channels = [int(number) / 255 for number in text[text.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_dark(look, scheme):
    shown = look(color_scheme=scheme, viewport={"width": 1280, "height": 900})

    paper = luminance(shown, "body", "backgroundColor")
    assert (paper > 0.5) == (scheme == "light")
    for selector in ("body", ".counts", ".facts", "a", "th", ".summary li"):
        ink = luminance(shown, selector, "color")
        bright, dark = max(ink, paper), min(ink, paper)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, selector  # WCAG 2.2, 1.4.3


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
def test_no_width_makes_the_page_scroll_sideways(look, width):
    shown = look(viewport={"width": width, "height": 800})

    assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_figures_are_seen_and_nothing_in_them_lies_outside(look):
    shown = look(viewport={"width": 1280, "height": 900})

    boxes = shown.evaluate(
        """() => [...document.querySelectorAll("figure svg")].map(svg => {
            const frame = svg.getBoundingClientRect();
            const texts = [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect());
            return [frame.width, frame.height, ...texts.map(t => Math.max(frame.left - t.left, t.right - frame.right))];
        })"""
    )
    assert len(boxes) == 6
    for width, height, *over in boxes:
        assert width > 400
        assert height > 100
        assert max(over) < 12  # pixels: the reader's font may be a little wider than ours


def test_a_name_that_is_markup_stays_a_name(look):
    shown = look()

    assert shown.locator("img").count() == 0
    assert HOSTILE in shown.locator("body").inner_text()


def test_links_inside_the_page_lead_somewhere_and_tables_can_be_saved(look, tmp_path):
    shown = look()

    shown.click("nav a:has-text('Methods')")
    assert shown.evaluate("location.hash") == "#methods"
    with shown.expect_download() as download:
        shown.click("a[download='scaling.csv']")
    download.value.save_as(tmp_path / "scaling.csv")
    assert (tmp_path / "scaling.csv").read_text().startswith("study,cluster,node_type")


def test_all_is_there_without_scripts(chromium, page):
    with chromium.new_context(java_script_enabled=False) as context:
        shown = context.new_page()
        shown.goto(page.as_uri())
        assert shown.locator("table").count() >= 4
        assert shown.locator("figure svg").count() == 6
        shown.click("#runs summary")
        assert shown.locator("#runs table").is_visible()


def test_on_paper_nothing_is_cut_off(look, tmp_path):
    shown = look(color_scheme="dark", viewport={"width": 960, "height": 640})  # A4 across, less its margins
    shown.emulate_media(media="print")

    assert luminance(shown, "body", "backgroundColor") > 0.9  # paper is white, whatever the screen was
    assert shown.locator("nav").is_hidden()
    wide = shown.evaluate(
        "() => [...document.querySelectorAll('table')].filter(t => t.offsetWidth > document.body.clientWidth).length"
    )
    assert wide == 0
    assert shown.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)[:5] == b"%PDF-"
