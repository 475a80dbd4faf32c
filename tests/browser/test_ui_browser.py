"""The UI in a real browser: find the graph, materialize by clicking, see the numbers, terminate.

Screenshots go to $TBRM_SCREENSHOTS (docs/images when the pictures of the documentation are renewed), else to pytest's
temporary folder.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.served_ui import Ui, served
from tests.support.tiny import write_tiny

if TYPE_CHECKING:
    from playwright.sync_api import Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
SCREENSHOTS = os.environ.get("TBRM_SCREENSHOTS")
GENERATIONS = 3 if SCREENSHOTS else 2  # more points to plot where pictures are taken
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: sh scripts/install-system.sh (as root)"),
    pytest.mark.xdist_group("ui browser"),
]
STAGES = ("rollouts", "rewards", "ref_logprobs", "trained_policy")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    folder = tmp_path_factory.mktemp("browser")
    path = write_tiny(folder, generations=GENERATIONS, prompts=128 if SCREENSHOTS else 16)
    if SCREENSHOTS:  # a policy that gets some sums right, so that there is something to see
        text = path.read_text().replace("steps: 8", "steps: 250, learning_rate: 2.0e-3").replace("512", "8192")
        path.write_text(text.replace("updates_per_generation: 2", "updates_per_generation: 8"))
    endless = write_tiny(folder, generations=1, name="endless")
    text = endless.read_text().replace("updates_per_generation: 2", "updates_per_generation: 100_000")
    endless.write_text(text.replace("tiny_behaviour", "endless_behaviour"))
    with served(folder / "data", folder) as found:
        run = found.launch("tiny_base_policy", [["tiny", "base_policy"]], None)
        assert found.wait(run) == "SUCCESS", found.messages(run)
        yield found


@pytest.fixture(scope="module")
def page(ui: Ui) -> "Iterator[Page]":
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.set_default_timeout(60_000)
        page.goto(ui.link)
        page.wait_for_url(lambda url: "token=" not in url)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_materialize_by_clicking_and_see_the_numbers(ui: Ui, page: "Page", pictures: Path) -> None:
    page.goto(f"{ui.url}/locations/assets.definitions/jobs/tiny_generation")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    page.get_by_text("Select a partition or create one").click()
    page.locator(".bp5-menu-item, [role=menuitem], [role=option]").filter(has_text="0000").first.click()
    page.keyboard.press("Escape")
    page.screenshot(path=pictures / "ui-launch.png")
    page.get_by_role("button", name="Launch 1 run").click()
    deadline = time.monotonic() + 240
    while (newest := ui.runs()[0])["jobName"] != "tiny_generation" and time.monotonic() < deadline:
        time.sleep(0.2)
    page.goto(f"{ui.url}/runs/{newest['runId']}")
    page.get_by_text("Success", exact=True).first.wait_for(timeout=400_000)
    page.screenshot(path=pictures / "ui-run.png")

    for generation in range(1, GENERATIONS):
        run = ui.launch("tiny_generation", [["tiny", n] for n in STAGES], f"{generation:04d}")
        assert ui.wait(run) == "SUCCESS", ui.messages(run)
    page.goto(f"{ui.url}/locations/assets.definitions/asset-groups/tiny")
    page.get_by_text("trained_policy").first.wait_for()
    page.get_by_text("Materialized").first.wait_for()
    page.wait_for_timeout(1_500)
    page.screenshot(path=pictures / "ui-graph.png")

    page.goto(f"{ui.url}/assets/tiny/rewards?view=overview")
    page.get_by_text("sampled reward, %").first.scroll_into_view_if_needed()
    page.screenshot(path=pictures / "ui-metadata.png")
    page.get_by_text("Plots", exact=True).first.click()
    page.locator("canvas").first.wait_for()
    page.get_by_text("sampled reward, %").first.scroll_into_view_if_needed()
    page.wait_for_timeout(1_000)
    page.screenshot(path=pictures / "ui-plots.png")


def test_an_asset_check_can_be_opened(ui: Ui, page: "Page", pictures: Path) -> None:
    page.goto(f"{ui.url}/assets/tiny/rewards?view=checks&checkDetail=aligned_with_rollouts")
    page.get_by_text("aligned_with_rollouts").first.click()
    page.get_by_text("shards agree").first.wait_for()
    page.get_by_text("Passed", exact=True).first.wait_for()
    page.screenshot(path=pictures / "ui-check.png")


def test_terminate_from_the_run_page_leaves_no_process(ui: Ui, page: "Page", pictures: Path) -> None:
    run = ui.launch("endless_base_policy", [["endless", "base_policy"]], None)
    assert ui.wait(run) == "SUCCESS", ui.messages(run)
    run = ui.launch("endless_generation", [["endless", name] for name in STAGES], "0000")
    deadline = time.monotonic() + 400
    while not any("/100000 " in message for message in ui.messages(run)) and time.monotonic() < deadline:
        time.sleep(0.5)  # until progress shows that updates are being made
    assert ui.stage_processes(), ui.messages(run)
    page.goto(f"{ui.url}/runs/{run}")
    page.get_by_role("button", name="Terminate").click()
    page.locator(".bp5-dialog, [role=dialog]").get_by_role("button", name=re.compile("Terminate")).click()
    assert ui.wait(run, 60) == "CANCELED"
    deadline = time.monotonic() + 15
    while ui.stage_processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ui.stage_processes() == []
    page.goto(f"{ui.url}/runs/{run}")
    page.get_by_text("Canceled", exact=True).first.wait_for()
    page.get_by_text("RUN_CANCELED").first.wait_for(state="attached")
    # Above the log: its stack trace names folders of this machine.
    page.screenshot(path=pictures / "ui-terminated.png", clip={"x": 0, "y": 0, "width": 1500, "height": 470})
