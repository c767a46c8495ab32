"""The pages in a real browser: no error, the slider moves the points, the keyboard works, nothing overflows."""

import shutil
import time

import pytest

from rflbat.report import build
from rflbat.report.run_page import run_page
from tests.engine.report.test_report import write_sweep

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
    pytest.mark.xdist_group("browser"),
]
POINTS = "return document.getElementById('plane-plot').data.flatMap((trace) => trace.x)"
SIZES = """return [...document.querySelectorAll('main *, header *')]
    .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((each) => parseFloat(getComputedStyle(each).fontSize))"""


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser, path, width=1280, height=900):
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []


@pytest.fixture
def run_html(run):
    for number in range(5):
        rates = {"precision": 0.5, "recall": 1.0, "false_positive_rate": 0.1, "malicious_weight": 0.25}
        run.append_shadows(
            [{"round": number, "defense": "krum", **rates, "kept": [number], "attack_success_rate": 0.1}]
        )
    return run_page(run)


def wait_for(condition):
    """Wait a while for what a timer of the page does."""
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_the_slider_moves_the_points_by_keyboard(browser, run_html, run):
    show(browser, run_html)
    slider = browser.find_element(By.ID, "plane-round")
    status = browser.find_element(By.ID, "plane-status")
    assert status.text.startswith("Round 4: ")
    before = browser.execute_script(POINTS)
    slider.send_keys(Keys.ARROW_LEFT)
    assert status.text.startswith("Round 3: ")
    after = browser.execute_script(POINTS)
    assert sorted(after) != sorted(before)
    shown = [row["coordinates"][0] for row in run.clients() if row["round"] == 3 and row["coordinates"]]
    assert sorted(after) == pytest.approx(sorted(shown), rel=1e-4)
    slider.send_keys(Keys.HOME)
    assert slider.get_attribute("aria-valuetext") == "round 0"


def test_it_plays_to_the_end_and_can_be_stopped(browser, run_html):
    show(browser, run_html)
    play, status = browser.find_element(By.ID, "plane-play"), browser.find_element(By.ID, "plane-status")
    play.send_keys(Keys.SPACE)
    assert (play.text, status.text[:8]) == ("Pause", "Round 0:")
    play.send_keys(Keys.ENTER)
    assert play.text == "Play"
    play.send_keys(Keys.SPACE)
    assert wait_for(lambda: play.text == "Play")
    assert status.text.startswith("Round 4: ")


def test_the_decision_of_a_shadow_can_be_looked_at(browser, run_html):
    show(browser, run_html)
    choice = browser.find_element(By.CSS_SELECTOR, "#plane-controls select")
    choice.send_keys("krum")
    status = browser.find_element(By.ID, "plane-status").text
    assert status == "Round 4: 1 of 21 kept; 20 dropped"


def test_the_keyboard_reaches_every_control_in_order(browser, run_html):
    show(browser, run_html)
    body, reached = browser.find_element(By.TAG_NAME, "body"), []
    body.send_keys(Keys.TAB)
    for _ in range(6):
        focused = browser.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.tag_name)
        focused.send_keys(Keys.TAB)
    assert reached[:3] == ["plane-play", "plane-round", "select"]


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_fits_and_is_legible(browser, run_html, write_run, tmp_path, width):
    sweep = build.report_sweep(write_sweep(write_run, tmp_path / "sweep")).files[-1]
    for path in (run_html, sweep):
        show(browser, path, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert min(browser.execute_script(SIZES)) >= 12
        drawn = browser.execute_script("return [...document.querySelectorAll('.plot')].map((e) => e.clientWidth)")
        assert min(drawn) > 0.8 * min(width, 1100)
        assert browser.get_log("browser") == []


def test_a_sweep_can_be_looked_through(browser, write_run, tmp_path):
    path = build.report_sweep(write_sweep(write_run, tmp_path / "sweep")).files[-1]
    show(browser, path)
    setting, measure = browser.find_elements(By.CSS_SELECTOR, "#bands-controls select")
    setting.send_keys("malicious = 0.5")
    measure.send_keys("Accuracy")
    status = browser.find_element(By.ID, "bands-status").text
    assert status == "malicious = 0.5: mean and standard deviation over 2 seeds"
    title = browser.execute_script("return document.getElementById('bands-plot').layout.yaxis.title.text")
    assert title == "Accuracy (%)"
    browser.find_element(By.CSS_SELECTOR, "#runs a").click()
    assert browser.find_element(By.TAG_NAME, "h1").text == "krum on mnist"
    assert browser.execute_script("return document.querySelectorAll('.js-plotly-plot').length") >= 3
    assert browser.get_log("browser") == []
