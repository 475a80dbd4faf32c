"""The report in a real browser: no errors, no sideways scrolling on a narrow screen, nothing in it runs.

Screenshots go to $TBRM_SCREENSHOTS, else to pytest's temporary folder.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.report.page import write_report
from pipeline.config import Experiment
from pipeline.store import Store

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: sh scripts/install-system.sh (as root)"),
    pytest.mark.xdist_group("report"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
CONTRAST = """() => {
  const read = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = colour => read(colour).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const page = light(getComputedStyle(document.body).backgroundColor);
  const texts = document.querySelectorAll('p, td, th, figcaption, .unit, .note, a, .right, .wrong, pre, svg text');
  return [...texts].map(e => {
    const style = getComputedStyle(e), own = light(e instanceof SVGElement ? style.fill : style.color);
    return (Math.max(own, page) + 0.05) / (Math.min(own, page) + 0.05);
  }).reduce((a, b) => Math.min(a, b));
}"""


@pytest.fixture(scope="module")
def browser() -> "Iterator[sync_api.Browser]":
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def file(experiment: Experiment, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(experiment, store, tmp_path_factory.mktemp("page") / "exp.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_readable_quiet_and_inert(
    browser: "sync_api.Browser", file: Path, scheme: str, width: int, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith("file:") else None)
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(file.as_uri())
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true }")
    assert page.evaluate(OVERFLOW) <= 0
    assert page.title() == "exp"
    assert page.locator("svg").count() >= 8
    assert page.locator("pre").filter(has_text="<script>document.title").count() >= 3
    assert page.evaluate(CONTRAST) >= 4.5
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    folder = Path(os.environ.get("TBRM_SCREENSHOTS", str(tmp_path)))
    page.screenshot(path=folder / f"report-{scheme}-{width}.png", full_page=True)
    page.close()
    assert complaints == []
