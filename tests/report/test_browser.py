"""The page in a real browser: sorting, filtering, provenance; no console errors and no network."""

import io
import json
import os
import shutil
import time
from xml.etree import ElementTree

import pytest
import synthetic_results as synthetic
from PIL import Image

from dgmbench.assemble import ledger
from dgmbench.assemble.experiment import assemble
from dgmbench.report.site import build
from dgmbench.runs import make_plan

REQUIRED = os.environ.get("DGMBENCH_REQUIRE_BROWSER") == "1"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--window-size=1400,1000",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A browser that shows the page, and the folder of the results that it was made from."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        reason = "chromium and chromedriver are not installed"
        pytest.fail(reason) if REQUIRED else pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    results = tmp_path_factory.mktemp("project") / "results"
    with pytest.MonkeyPatch.context() as monkeypatch:
        synthetic.stand_ins(monkeypatch)
        experiments = synthetic.experiments()
        synthetic.write_everything(results, make_plan(synthetic.params(), experiments))
        for name in experiments:
            assemble(name, synthetic.params(), experiments, results, results.parent / "data")
        ledger.collect(results, synthetic.params(), experiments)
        path = build(synthetic.params(), experiments, results)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        browser.get(path.as_uri())
        yield browser, results / "demo"
    finally:
        browser.quit()


def one(browser, selector):
    return browser.find_element("css selector", selector)


def shown_rows(browser):
    rows = browser.find_elements("css selector", "#ledger-table tbody tr")
    return [row for row in rows if row.is_displayed()]


def ledger_header(browser, text):
    headers = browser.find_elements("css selector", "#ledger-table thead th")
    return next(header for header in headers if header.text.split("\n")[0].strip() == text)


def test_a_click_on_a_header_sorts_the_ledger_both_ways(page):
    browser, results = page
    values = sorted(r["obtained"] for r in ledger.read_csv(results / "ledger.csv") if r["obtained"] is not None)
    header = ledger_header(browser, "obtained")
    column = header.get_property("cellIndex")
    for direction, expected in (("ascending", values), ("descending", values[::-1])):
        header.find_element("css selector", "button").click()
        assert header.get_attribute("aria-sort") == direction
        script = "return [...document.querySelectorAll('#ledger-table tbody tr')].map(r => r.cells[%d].dataset.value)"
        read = browser.execute_script(script % column)
        assert [float(text) for text in read if text] == expected
        assert read[-1] == ""


def test_headers_sort_by_keyboard(page):
    browser, _ = page
    header = ledger_header(browser, "row")
    header.find_element("css selector", "button").send_keys("\ue007")
    assert header.get_attribute("aria-sort") == "ascending"
    script = "return [...document.querySelectorAll('#ledger-table tbody th')].map(c => c.textContent.trim())"
    names = browser.execute_script(script)
    assert names[0].startswith("Deep GMM")
    assert names[-1] == "VAE"


def test_the_ledger_is_filtered_by_choice_and_by_words(page):
    from selenium.webdriver.support.select import Select

    browser, results = page
    rows = ledger.read_csv(results / "ledger.csv")
    Select(one(browser, "#filter-kind")).select_by_visible_text("parzen")
    parzen = [r for r in rows if r["kind"] == "parzen"]
    assert len(shown_rows(browser)) == len(parzen)
    assert one(browser, "#filter-count").text == f"{len(parzen)} of {len(rows)} cells"
    one(browser, "#filter-text").send_keys("vae DIVERGED")
    (row,) = shown_rows(browser)
    assert "partial" in row.text
    one(browser, "#filter-text").clear()
    one(browser, "#filter-text").send_keys(" ")
    Select(one(browser, "#filter-kind")).select_by_index(0)
    assert len(shown_rows(browser)) == len(rows)


def test_a_cell_opens_its_provenance_and_the_number_is_the_csvs(page):
    browser, results = page
    wanted = next(r for r in ledger.read_csv(results / "ledger.csv") if r["row"] == "rbm" and r["column"] == "exact")
    cell = one(browser, "#estimators-check button.cell[data-key='rbm | exact | log_likelihood']")
    cell.click()
    dialog = one(browser, "#provenance")
    assert dialog.get_attribute("open") is not None
    assert float(one(browser, "[data-field=obtained]").text) == wanted["obtained"]
    assert "dgmbench why estimators-check rbm exact" in dialog.text
    for expected in ("0123456789ab", wanted["run_ids"].split()[2], "500 hidden units", "360 examples", "ab" * 32):
        assert expected in dialog.text
    one(browser, "#provenance-close").click()
    assert dialog.get_attribute("open") is None
    assert browser.switch_to.active_element == cell


def test_a_pending_cell_says_why(page):
    browser, _ = page
    one(browser, "#patches-check button.cell[data-key='deep | test | log_likelihood']").click()
    assert "the model is not here yet" in one(browser, "#provenance-body").text
    one(browser, "#provenance-close").click()


def test_nothing_scrolls_sideways_on_a_phone(page):
    browser, _ = page
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_picture_is_saved_as_it_is_and_in_pixels(page, tmp_path):
    browser, results = page
    saving = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", saving)
    for ending in ("svg", "png"):
        button = one(browser, f"button.save[data-name='patches-check.{ending}']")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        saved, end = tmp_path / f"patches-check.{ending}", time.monotonic() + 20
        while not saved.is_file() and time.monotonic() < end:
            time.sleep(0.05)
        assert saved.is_file()
    drawn = (results / "figures" / "patches-check.svg").read_bytes()
    assert (tmp_path / "patches-check.svg").read_bytes() == drawn
    size = ElementTree.fromstring(drawn)
    pixels = Image.open(io.BytesIO((tmp_path / "patches-check.png").read_bytes())).convert("RGB")
    assert pixels.width == 2008
    ratio = float(size.get("height").rstrip("pt")) / float(size.get("width").rstrip("pt"))
    assert pixels.height == pytest.approx(ratio * 2008, rel=0.01)
    corner, colours = pixels.getpixel((0, 0)), pixels.getcolors(2**20)
    assert corner == (255, 255, 255)
    assert len(colours) > 20


def test_no_console_errors_and_no_requests(page):
    browser, _ = page
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # The browser's own empty tab, which opens before ours, asks for its chrome:// parts.
    urls = [one["request"]["url"] for one in sent if not one["documentURL"].startswith("chrome:")]
    assert urls
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
