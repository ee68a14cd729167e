"""The report in a real browser: Chromium without a window, driven by selenium, from the file system, offline."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from make_analyses import attention_record, lesion_record

from memtrans.report.write import write

ROOT = Path(__file__).resolve().parent.parent
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
SCHEMES = ("light", "dark")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER) and not os.environ.get("CI"), reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    results = tmp_path_factory.mktemp("browser") / "results"
    for name in ("records", "significance"):
        shutil.copytree(ROOT / "results" / name, results / name)
    for name in ("paper.csv", "claims.yaml"):
        shutil.copy(ROOT / "results" / name, results)
    attention_record().save(results)
    lesion_record().save(results)
    return write(results, ROOT / "configs").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    assert BROWSER, "CI must install chromium: see .ci/run"
    assert DRIVER, "CI must install chromium-driver: see .ci/run"
    options = ChromeOptions()
    options.binary_location = BROWSER
    for argument in (*ARGUMENTS, "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def show(browser, page: str, scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page)


def luminance(browser, selector: str, of: str) -> float:
    """Relative luminance of a computed colour, as the accessibility guidelines (WCAG 2) define it."""
    script = f"return getComputedStyle(document.querySelector('{selector}')).{of}"
    channels = browser.execute_script(script).partition("(")[2].rstrip(")").split(",")[:3]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (float(x) / 255 for x in channels)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_opens_without_errors_and_can_be_read(browser, page: str, scheme: str, tmp_path: Path) -> None:
    show(browser, page, scheme)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    back = luminance(browser, "html", "backgroundColor")
    assert (back > 0.8) == (scheme == "light")
    for selector in ("body", ".notes", "figcaption", ".claims td", "a"):
        assert contrast(luminance(browser, selector, "color"), back) > 4.5
    for verdict in (".supported", ".contradicted", ".undecided"):
        own = luminance(browser, verdict, "backgroundColor")
        assert contrast(luminance(browser, verdict, "color"), own) > 4.5
    # drawings take their colours from the page
    assert contrast(luminance(browser, "figure svg text", "fill"), back) > 4.5
    shot = tmp_path / f"{scheme}.png"
    assert browser.save_screenshot(str(shot))
    assert shot.stat().st_size > 20_000


def test_nothing_is_fetched(browser, page: str) -> None:
    show(browser, page)
    names = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in names if not name.startswith("data:")] == []


def test_the_picker_changes_the_map(browser, page: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    show(browser, page)

    def dark_columns() -> set[str]:
        """The columns that the large map shows as attended to."""
        titles = browser.execute_script(
            "return [...document.querySelectorAll('#map rect title')].map((t) => t.textContent)"
        )
        return {title.split(" ← ")[1].split(":")[0] for title in titles if title.endswith("1.00")}

    WebDriverWait(browser, 10).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#multiples button"))
    multiples = browser.find_elements(By.CSS_SELECTOR, "#multiples button")
    assert len(multiples) == 4
    assert dark_columns() == {"[mem 1]"}
    assert "read 0.23 (uniform 0.50)" in browser.find_element(By.ID, "map-text").text
    multiples[3].click()  # layer 2, head 2
    assert dark_columns() == {"▁Hund"}
    pressed = [button.get_attribute("aria-pressed") for button in multiples]
    assert pressed == ["false", "false", "false", "true"]
    Select(browser.find_element(By.ID, "pick-head")).select_by_visible_text("1")
    assert dark_columns() == {"▁ein"}
    assert browser.find_element(By.ID, "map-text").text.startswith("Layer 2, head 1, encoder.")
    Select(browser.find_element(By.ID, "pick-example")).select_by_index(1)
    assert dark_columns() == {"▁ein"}  # the same head of another sentence
    blocks = [text.text for text in browser.find_elements(By.CSS_SELECTOR, "#map .block")]
    assert blocks == ["process", "write", "read", "normal"]
    assert browser.get_log("browser") == []


def test_a_fold_of_a_model_shows_its_figures_and_tables_when_opened(browser, page: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, page)
    for section, shown in (("attention", "strongest patterns"), ("lesions", "frozen to its mean")):
        (fold,) = browser.find_elements(By.CSS_SELECTOR, f"#{section}-single ~ details")
        assert not fold.find_elements(By.TAG_NAME, "table")
        for _ in range(3):  # opened, closed, opened: it is there once
            fold.find_element(By.TAG_NAME, "summary").click()
        WebDriverWait(browser, 10).until(lambda _, fold=fold: fold.find_elements(By.TAG_NAME, "table"))
        assert shown in fold.text
        assert len(fold.find_elements(By.TAG_NAME, "table")) == 1
        assert len(fold.find_elements(By.CSS_SELECTOR, "figure svg")) == 1
    assert browser.get_log("browser") == []


def test_it_says_what_it_does_not_show_without_a_script(browser, page: str) -> None:
    from selenium.webdriver.common.by import By

    show(browser, page)
    assert not browser.find_element(By.CSS_SELECTOR, ".unable").is_displayed()
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page)
        assert browser.find_element(By.CSS_SELECTOR, ".unable").is_displayed()
        assert not browser.find_element(By.ID, "maps").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_all_pictures_have_names_and_all_controls_labels(browser, page: str) -> None:
    show(browser, page)
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('svg[role=img], .scroll[role=region], #multiples button')]"
        ".filter((e) => !e.getAttribute('aria-label')).length"
        " + [...document.querySelectorAll('select')].filter((e) => !e.labels.length).length"
        " + [...document.querySelectorAll('table')].filter((e) => !e.querySelector('th[scope=col]')).length"
    )
    assert unnamed == 0
    headings = browser.execute_script("return [...document.querySelectorAll('h1, h2, h3')].map((h) => +h.tagName[1])")
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(headings, headings[1:], strict=False))


def test_it_prints(browser, page: str) -> None:
    show(browser, page)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(printed) > 50_000
