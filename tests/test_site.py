"""The built site in a headless browser: every page, no network, no errors,
figures drawn, tags that think.

Run with ``pytest -m book`` after ``make site``. Without Chromium these tests
are skipped and say so; where the environment variable CI is set, its absence is
a failure."""

import io
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from vlg_lib import viz
from vlg_lib.classes import ROOMS_12
from vlg_lib.viz.payload import ASSETS

ROOT = Path(__file__).resolve().parent.parent
HTML = Path(os.environ.get("VLG_SITE", ROOT / "_build" / "html"))
from build_site import toc_pages  # noqa: E402
from chapters import read_notebook  # noqa: E402

pytestmark = pytest.mark.book

PAGES = toc_pages(ROOT / "book" / "_toc.yml")
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--no-first-run",
)
# Rules of axe that the tools' own markup breaks: the theme's buttons and logo
# (sphinx-book-theme 1.3.0), Sphinx's nested definition lists below documented
# classes, and sphinxcontrib-bibtex's list of citations.
BASELINE = {
    "<html": {"label-content-name-mismatch", "region"},
    '<dl class="py ': {"definition-list"},
    'role="doc-biblioentry"': {
        "aria-allowed-role",
        "aria-deprecated-role",
        "aria-required-children",
    },
}
# Runs axe; {rule: [markup, ...]}. It takes a header that is a formula for an
# empty one (its text is MathML): left out.
AXE = """async () => {
  const { violations } = await axe.run({
    resultTypes: ["violations"], preload: false });
  const formula = (node) =>
    document.querySelector(node.target[0]).querySelector("mjx-container");
  const kept = (rule) => rule.nodes.filter(
    (node) => rule.id !== "empty-table-header" || !formula(node));
  const start = (node) => node.html.slice(0, 200);
  const found = violations.map((rule) => [rule.id, kept(rule).map(start)]);
  return Object.fromEntries(found.filter(([, nodes]) => nodes.length));
}"""
MAX_PAGE_BYTES = 6_000_000


def _absent(reason):
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser():
    names = (
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
        "chrome",
    )
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if found is None:
        _absent(
            "no Chromium or Chrome on the PATH (or in the variable CHROMIUM):"
            " the browser checks did not run"
        )
    if not (HTML / "index.html").is_file():
        _absent(f"no site in {HTML}: run `make site` first")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """What one page did while it was read from top to bottom."""

    errors: list = field(default_factory=list)
    strangers: list = field(default_factory=list)
    figures: list = field(default_factory=list)
    violations: dict = field(default_factory=dict)
    alts: list = field(default_factory=list)
    formulas: tuple = (0, 0)
    wide: list = field(default_factory=list)


def watched(page, visit):
    """A page whose errors and requests are written into ``visit()``."""
    page.on(
        "console",
        lambda line: (
            visit().errors.append(line.text) if line.type == "error" else None
        ),
    )
    page.on("pageerror", lambda error: visit().errors.append(str(error)))

    def refuse(request):
        visit().strangers.append(request.request.url)
        request.abort()

    page.route(re.compile(r"^(?!file:|data:|blob:)"), refuse)
    return page


def open_page(browser, address, visit, width=1280, **options):
    """A new page whose console errors and requests to elsewhere are written
    down (and the latter refused)."""
    page = watched(
        browser.new_page(viewport={"width": width, "height": 900}, **options),
        lambda: visit,
    )
    page.goto(address, wait_until="load", timeout=120_000)
    return page


def draw(page, figure):
    figure.scroll_into_view_if_needed()
    page.wait_for_function(
        "f => ['drawn', 'failed'].includes(f.dataset.state)",
        arg=figure,
        timeout=120_000,
    )
    return figure.get_attribute("data-state")


@pytest.fixture(scope="session")
def visits(browser):
    """Each page is visited once; the tests look at different sides of the
    visit. Where nothing is drawn, one tab of the browser is gone on with: it
    has the scripts already, and no drawing to take down."""
    visited = []
    tab = watched(browser.new_page(), lambda: visited[-1])

    @cache
    def visit(name):
        seen, file = Visit(), HTML / f"{name}.html"
        visited.append(seen)
        drawn = 'class="vlg3d"' in file.read_text(encoding="utf8")
        if drawn:
            page = open_page(browser, file.as_uri(), seen)
        else:
            page = tab
            page.set_viewport_size({"width": 1280, "height": 900})
            page.goto(file.as_uri(), wait_until="load", timeout=120_000)
        seen.figures = [
            draw(page, figure)
            for figure in page.query_selector_all("figure.vlg3d")
        ]
        seen.alts = page.eval_on_selector_all(
            "article img", "nodes => nodes.map(n => n.getAttribute('alt'))"
        )
        if page.query_selector(".math"):
            page.wait_for_function(
                "() => window.MathJax && MathJax.startup &&"
                " MathJax.startup.promise"
            )
            page.evaluate("() => MathJax.startup.promise")
            count = "nodes => nodes.length"
            seen.formulas = (
                page.eval_on_selector_all("article .math", count),
                page.eval_on_selector_all("article mjx-container", count),
            )
        page.evaluate(
            (ROOT / "tests" / "assets" / "axe.min.js").read_text(
                encoding="utf8"
            )
        )
        seen.violations = page.evaluate(AXE)
        page.set_viewport_size({"width": 360, "height": 740})
        page.wait_for_timeout(200)
        seen.wide = page.evaluate(
            "() => document.documentElement.scrollWidth <= 360 ? [] :"
            " Array.from(document.querySelectorAll('body *')).filter(n =>"
            " n.getBoundingClientRect().right > 362).slice(0, 5).map(n =>"
            " n.outerHTML.slice(0,"
            " 150)).concat(document.documentElement.scrollWidth + ' px')"
        )
        if drawn:
            page.close()
        return seen

    yield visit
    tab.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_reads_without_errors_or_network(visits, name):
    visit = visits(name)
    assert not visit.errors
    assert not visit.strangers
    assert visit.formulas[0] == visit.formulas[1]


@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_beyond_the_themes_baseline(visits, name):
    markup = (HTML / f"{name}.html").read_text(encoding="utf8")
    allowed = {
        rule
        for sign, rules in BASELINE.items()
        if sign in markup
        for rule in rules
    }
    assert {
        rule: nodes
        for rule, nodes in visits(name).violations.items()
        if rule not in allowed
    } == {}


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(visits, name):
    assert visits(name).wide == []


@pytest.mark.parametrize("name", PAGES)
def test_pictures_have_real_alternatives(visits, name):
    for alt in visits(name).alts:
        assert alt
        assert len(alt) >= 8
        assert "_images/" not in alt
        assert not alt.endswith(".png")


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_figure_of_the_chapter_is_drawn(visits, name):
    staged = read_notebook(
        ROOT / "build" / "executed" / f"{Path(name).name}.ipynb"
    )
    outputs = [
        output for cell in staged["cells"] for output in cell.get("outputs", [])
    ]
    made = sum(
        'class="vlg3d"' in "".join(output.get("data", {}).get("text/html", ""))
        for output in outputs
    )
    code = "\n".join(
        "".join(cell["source"])
        for cell in staged["cells"]
        if cell["cell_type"] == "code"
    )
    # A figure is shown by a line that begins with the call; elsewhere its still
    # picture may be taken.
    assert made > 0 or not re.search(
        r"^viz\.(show3d|tag_room)\(", code, flags=re.MULTILINE
    )
    assert visits(name).figures == ["drawn"] * made


@pytest.mark.parametrize("name", PAGES)
def test_page_is_light(name):
    assert (HTML / f"{name}.html").stat().st_size < MAX_PAGE_BYTES


def test_index_leads_to_the_introduction():
    assert "intro.html" in (HTML / "index.html").read_text()


class Links(HTMLParser):
    """Where a page's links lead, and what can be linked to on it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if found.get("id") is not None:
            self.anchors.add(found["id"])
        if tag == "a" and found.get("href") is not None:
            self.links.append(found["href"])


def test_internal_links_arrive():
    broken = []
    pages = {path: Links(path) for path in HTML.rglob("*.html")}
    anchors = {path: page.anchors for path, page in pages.items()}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (
                (path.parent / unquote(parts.path)).resolve()
                if parts.path
                else path
            )
            lost = (
                parts.fragment
                and target in anchors
                and unquote(parts.fragment) not in anchors[target]
            )
            if not target.exists() or lost:
                broken.append(f"{path.relative_to(HTML)} -> {link}")
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert broken == []


# ---- the page that thinks ----


def picture_of(figure):
    return np.array(
        Image.open(
            io.BytesIO(figure.query_selector(".vlg3d-stage").screenshot())
        ).convert("RGB")
    ).astype(int)


def pixels_near(picture, color, tolerance=12):
    return int((np.abs(picture - np.array(color)).max(-1) <= tolerance).sum())


@pytest.mark.parametrize(
    "name", [page for page in CHAPTERS if "/00_" in page or "/04_" in page]
)
def test_unticking_a_tag_recolours_the_room(browser, name):
    visit = Visit()
    page = open_page(browser, (HTML / f"{name}.html").as_uri(), visit)
    figure = page.query_selector("figure.vlg3d:has(.vlg3d-tags)")
    assert figure is not None, "the chapter has no page that thinks"
    assert draw(page, figure) == "drawn"
    counts = figure.evaluate(
        "f => Object.fromEntries(Array.from(f.querySelectorAll('.vlg3d-count'))"
        ".map(n => [n.dataset.class, Number(n.textContent.replace(/,/g, ''))]))"
    )
    names = figure.evaluate("f => f.vlg3d.data.names")
    tag = "bed" if counts.get("bed") else max(counts, key=counts.get)
    start = figure.evaluate("f => Array.from(f.vlg3d.labels)")
    assert start.count(names.index(tag)) == counts[tag] > 0

    figure.query_selector(f"input[value='{tag}']").focus()
    page.keyboard.press("Space")  # as a reader without a mouse does
    labels = figure.evaluate("f => Array.from(f.vlg3d.labels)")
    assert names.index(tag) not in labels
    assert all(
        now == before
        for now, before in zip(labels, start, strict=True)
        if before != names.index(tag)
    )
    assert (
        figure.query_selector(
            f".vlg3d-count[data-class='{tag}']"
        ).text_content()
        == "0"
    )
    status = figure.query_selector("[role=status]").text_content()
    assert status.startswith(f"{counts[tag]:,} points changed their label")

    figure.query_selector("text=The tags of this room").click()
    assert figure.evaluate("f => Array.from(f.vlg3d.labels)") == start
    for box in figure.query_selector_all(".vlg3d-tags input:checked"):
        box.uncheck()
    assert set(figure.evaluate("f => Array.from(f.vlg3d.labels)")) == {255}
    assert (
        "No tag is ticked"
        in figure.query_selector("[role=status]").text_content()
    )
    assert not visit.errors
    page.close()


# ---- the loader, on pages of our own ----


@pytest.fixture(scope="module")
def cube():
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * 2
    return points, torch.where(points[:, 0] < 1, 10, 4)


def test_recolouring_reaches_the_pixels(browser, cube, tmp_path):
    points, labels = cube
    logits = torch.full((4000, 12), 0.1)
    logits[torch.arange(4000), labels] = 0.3
    logits[:, 1] = 0.2
    tags = ROOMS_12.mask(["floor", "door", "bed"])
    colors = torch.zeros(4000, 3, dtype=torch.uint8)
    figure = viz.tag_room(
        points,
        colors,
        logits,
        ROOMS_12,
        tags,
        alt="Two halves of a cube.",
        view=viz.View3D(cut=None),
    )
    (tmp_path / "cube.html").write_text(figure.to_page("A cube"))
    visit = Visit()
    page = open_page(browser, (tmp_path / "cube.html").as_uri(), visit)
    node = page.query_selector("figure.vlg3d")
    assert draw(page, node) == "drawn"
    page.wait_for_timeout(500)
    bed, floor = ROOMS_12.palette[10], ROOMS_12.palette[1]
    before = picture_of(node)
    assert pixels_near(before, bed) > 1000
    assert pixels_near(before, floor) < 100
    node.query_selector("input[value=bed]").uncheck()
    page.wait_for_timeout(500)
    after = picture_of(node)
    assert pixels_near(after, bed) < 100
    assert pixels_near(after, floor) > 1000
    node.query_selector("text=Camera colours").click()
    page.wait_for_timeout(500)
    assert pixels_near(picture_of(node), (0, 0, 0)) > 1000
    assert not visit.errors
    assert not visit.strangers
    page.close()


def test_the_poster_is_where_plotly_draws(browser, cube, tmp_path):
    points, labels = cube
    figure = viz.show3d(
        points,
        labels,
        class_set=ROOMS_12,
        alt="Two halves of a cube.",
        view=viz.View3D(cut=None),
    )
    (tmp_path / "cube.html").write_text(figure.to_page("A cube"))
    page = open_page(browser, (tmp_path / "cube.html").as_uri(), Visit())
    node = page.query_selector("figure.vlg3d")
    assert draw(page, node) == "drawn"
    page.wait_for_timeout(500)
    drawn = picture_of(node)
    poster = Image.open(io.BytesIO(figure.poster)).convert("RGB")
    scale = drawn.shape[0] / poster.height
    poster = np.array(
        poster.resize((round(poster.width * scale), drawn.shape[0]))
    ).astype(int)
    margin = (drawn.shape[1] - poster.shape[1]) // 2
    for label in (4, 10):
        places = []
        for picture, offset in ((drawn, 0), (poster, margin)):
            rows, columns = np.nonzero(
                np.abs(picture - np.array(ROOMS_12.palette[label])).max(-1)
                <= 25
            )
            places.append(
                (
                    columns.min() + offset,
                    columns.max() + offset,
                    rows.min(),
                    rows.max(),
                )
            )
        # the ends: how large a dot is depends on the browser's fonts
        assert np.abs(np.subtract(*places)).max() < 12
    page.close()


def test_the_keyboard_turns_zooms_and_resets(browser, cube, tmp_path):
    points, labels = cube
    page_path = viz.save_page3d(
        tmp_path / "cube.html",
        points,
        labels,
        ROOMS_12,
        "A cube in two colours",
    )
    page = open_page(browser, page_path.as_uri(), Visit())
    node = page.query_selector("figure.vlg3d")
    draw(page, node)
    node.query_selector(".vlg3d-stage").focus()
    eye = lambda: node.evaluate("f => Object.values(f.vlg3d.current().eye)")
    start = np.array(eye())
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    turned = np.array(eye())
    assert np.abs(turned - start).max() > 0.1
    assert turned[2] == pytest.approx(start[2], abs=1e-3)
    page.keyboard.press("+")
    page.wait_for_timeout(300)
    assert np.linalg.norm(eye()) < np.linalg.norm(turned)
    page.keyboard.press("Home")
    page.wait_for_timeout(300)
    assert eye() == pytest.approx(start.tolist(), abs=1e-3)
    page.close()


def test_a_crowded_page_keeps_few_contexts_and_draws_what_is_seen(
    browser, cube, tmp_path
):
    points, labels = cube
    fragment = viz.show3d(
        points, labels, class_set=ROOMS_12, alt="Two halves of a cube."
    ).to_html()
    for file in ("vlg3d.js", "vlg3d.css", "plotly-gl3d.min.js"):
        shutil.copy(ASSETS / file, tmp_path)
    head = (
        "<meta charset=utf-8><link rel=stylesheet href=vlg3d.css><script defer"
        " src=vlg3d.js></script>"
    )
    (tmp_path / "many.html").write_text(f"<!DOCTYPE html>{head}{fragment * 9}")
    visit = Visit()
    page = open_page(browser, (tmp_path / "many.html").as_uri(), visit)
    figures = page.query_selector_all("figure.vlg3d")
    for figure in figures:
        assert draw(page, figure) == "drawn"
        assert page.evaluate("() => VLG3D.live.length") <= 8
    assert figures[0].get_attribute("data-state") == "waiting"
    assert draw(page, figures[0]) == "drawn"  # and again, on the way back
    # all nine, one more than may live, in view at once
    page.set_viewport_size({"width": 600, "height": 9000})
    page.wait_for_timeout(1500)
    assert page.evaluate("() => VLG3D.live.length") <= 8
    assert (
        page.evaluate("() => document.querySelectorAll('.vlg3d-canvas').length")
        <= 8
    )
    assert "failed" not in [
        figure.get_attribute("data-state") for figure in figures
    ]
    assert not visit.errors
    page.close()


def test_without_javascript_and_in_print_the_poster_is_there(
    browser, cube, tmp_path
):
    points, labels = cube
    address = viz.save_page3d(
        tmp_path / "cube.html",
        points,
        labels,
        ROOMS_12,
        "A cube in two colours",
    ).as_uri()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".vlg3d-poster").is_visible()
    assert page.locator(".vlg3d-legend").text_content().split()[0] == "door"
    context.close()
    page = open_page(browser, address, Visit())
    draw(page, page.query_selector("figure.vlg3d"))
    assert not page.locator(".vlg3d-poster").is_visible()
    page.emulate_media(media="print")
    assert page.locator(".vlg3d-poster").is_visible()
    assert not page.locator(".vlg3d-canvas").is_visible()
    page.close()


@pytest.mark.parametrize(
    ("name", "sign"),
    [("notation", "<mjx-container"), (CHAPTERS[0], 'data-state="drawn"')],
)
def test_the_site_works_where_there_is_no_network_at_all(name, sign):
    """A second opinion without routing: a page in a network name space of its
    own, where the system allows it."""
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rn", "true"], check=False).returncode
    ):
        pytest.skip("unshare -rn is not allowed here")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium command")
    address = (HTML / f"{name}.html").as_uri()
    options = [
        "--headless",
        *FLAGS,
        "--window-size=1000,5000",
        "--virtual-time-budget=20000",
        "--dump-dom",
        address,
    ]
    done = subprocess.run(
        ["unshare", "-rn", chromium, *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert sign in done.stdout
