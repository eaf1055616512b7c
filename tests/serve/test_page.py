"""The page as a visitor meets it, in a real browser without a screen."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.toy import png

pytest.importorskip("gradio")
pytest.importorskip("selenium")

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs Chromium and chromedriver"),
]
WAIT = 60.0  # seconds for what takes one on a machine that is free


class Visitor:
    """A browser, and what a person does with it."""

    def __init__(self, downloads: Path) -> None:
        self.downloads = downloads
        options = ChromeOptions()
        options.binary_location = str(BROWSER)
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = Chrome(options=options, service=Service(DRIVER))
        self.size(1400, 1000)

    def size(self, width: int, height: int) -> None:
        """A screen of this size; narrower ones than a window can be, too."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, WAIT, 0.1, ignored_exceptions=(Exception,)).until(lambda _: condition())

    def one(self, selector: str) -> WebElement:
        return self.wait(lambda: self.driver.find_element(By.CSS_SELECTOR, selector))

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def click(self, element: WebElement) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def choose(self, selector: str, words: str) -> None:
        """Search a list for words, and take what is found."""
        field = self.one(f"{selector} input")
        self.click(field)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(words)
        self.wait(lambda: any(words in one.text for one in self.all("[role=option]")))
        next(one for one in self.all("[role=option]") if words in one.text).click()

    def upload(self, path: Path) -> None:
        self.one("#input input[type=file]").send_keys(str(path))

    def canvas(self) -> WebElement:
        """The picture once it is there."""
        shown = "return document.querySelector('#canvas img.picture')?.naturalWidth > 0"
        self.wait(lambda: self.driver.execute_script(shown))
        found = self.one("#canvas canvas")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        return found

    def draw(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the mouse from one place of the picture to another, in shares of it."""
        canvas = self.canvas()
        width, height = canvas.size["width"], canvas.size["height"]
        offsets = [(round((x - 0.5) * width), round((y - 0.5) * height)) for x, y in (start, end)]
        actions = ActionChains(self.driver).move_to_element_with_offset(canvas, *offsets[0]).click_and_hold()
        actions.move_to_element_with_offset(canvas, *offsets[1]).release().perform()

    def field(self, label: str) -> WebElement:
        path = f"//label[.//span[starts-with(normalize-space(), '{label}')]]//*[self::input or self::textarea]"
        return self.wait(lambda: self.driver.find_element(By.XPATH, path))

    def asked_elsewhere(self, url: str) -> list[str]:
        """Addresses on other machines that the page asked for."""
        events = [json.loads(one["message"])["message"] for one in self.driver.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
        return [one for one in asked if one.startswith(("http", "ws")) and not one.startswith(url)]


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    visitor = Visitor(tmp_path_factory.mktemp("downloads"))
    yield visitor
    visitor.driver.quit()


@pytest.fixture
def page(visitor: Visitor, listening: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """A server of the small model and of one that holds conversations, opened in the browser."""
    with listening(page=True, models=("toy-model", "sam-histo-interactive")) as url:
        visitor.size(1400, 1000)
        visitor.driver.get(url)
        visitor.one("#sample input")
        yield url


def test_load_choose_upload_draw_predict_download(visitor: Visitor, page: str, tmp_path: Path) -> None:
    assert visitor.driver.current_url.startswith(f"{page}/page")
    assert visitor.driver.title == "zoo"
    visitor.choose("#model", "toy-model")
    visitor.wait(lambda: "Bright places" in visitor.text("body"))
    (tmp_path / "eye.png").write_bytes(png())
    visitor.upload(tmp_path / "eye.png")
    visitor.draw((0.25, 0.25), (0.75, 0.5))
    box = visitor.wait(lambda: visitor.field("box").get_attribute("value"))
    assert np.allclose([float(number) for number in box.split(",")], [12, 12, 36, 24], atol=0.3)
    visitor.click(visitor.one("#predict"))
    told = visitor.wait(lambda: "bright" in visitor.text("#told") and visitor.text("#told"))
    assert "eye.png" in told
    assert "weights: none (untrained weights; the output means nothing)" in told
    shown = "return document.querySelector('#figure img')?.naturalWidth"
    assert visitor.wait(lambda: visitor.driver.execute_script(shown)) > 200
    visitor.one("#mask img")
    assert "share of bright" in visitor.text("#numbers")
    assert "There are none: the network is as it was drawn" in visitor.text("body")
    assert "@inproceedings{" in visitor.text("body")
    names = {link.get_attribute("download") for link in visitor.all("#files a[download]")}
    assert names == {"toy-model.zip", "eye.json", "eye.png", "eye_mask.png"}
    visitor.click(next(link for link in visitor.all("#files a") if link.get_attribute("download") == "eye_mask.png"))
    file = visitor.downloads / "eye_mask.png"
    visitor.wait(file.is_file)
    assert Image.open(file).size == (48, 48)
    assert visitor.asked_elsewhere(page) == []


def test_an_error_is_shown_as_its_sentence(visitor: Visitor, page: str, tmp_path: Path) -> None:
    visitor.choose("#model", "toy-model")
    visitor.wait(lambda: "Bright places" in visitor.text("body"))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    visitor.upload(tmp_path / "bad.png")
    alert = visitor.wait(lambda: visitor.text("#input-note [role=alert]"))
    sentence = "can't read bad.png: it is named .png but holds plain text; give a PNG, JPEG"
    assert sentence in alert
    visitor.click(visitor.one("#predict"))
    assert sentence in visitor.wait(lambda: visitor.text("#told [role=alert]"))
    assert "Traceback" not in visitor.text("body")
    visitor.choose("#sample", "sample:retina")
    visitor.canvas()
    threshold = visitor.field("box")
    threshold.send_keys("30,30,10,10")
    visitor.click(visitor.one("#predict"))
    told = visitor.wait(lambda: "box" in visitor.text("#told [role=alert]") and visitor.text("#told [role=alert]"))
    assert "option box 30,30,10,10 is empty or inverted; write x0,y0,x1,y1" in told


def test_clicks_are_answered_at_once(visitor: Visitor, page: str) -> None:
    visitor.choose("#model", "sam-histo-interactive")
    visitor.wait(lambda: visitor.all("#canvas .bar button"))
    visitor.choose("#sample", "phantom:he-tile?seed=7")
    canvas = visitor.canvas()
    assert [one.text for one in visitor.all("#canvas .bar button")][:2] == ["click inside", "click outside"]
    layer = "const one = document.querySelector('#canvas img.overlay'); return one.hidden ? '' : one.src"
    assert visitor.driver.execute_script(layer) == ""
    visitor.draw((0.5, 0.5), (0.5, 0.5))
    first = visitor.wait(lambda: visitor.driver.execute_script(layer))
    assert visitor.field("click").get_attribute("value").endswith(",1")
    visitor.click(visitor.all("#canvas .bar button")[1])
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ENTER)  # by the keyboard
    second = visitor.wait(
        lambda: visitor.driver.execute_script(layer) not in (first, "") and visitor.driver.execute_script(layer)
    )
    clicks = visitor.field("click").get_attribute("value").split("; ")
    assert [one.rpartition(",")[2] for one in clicks] == ["1", "0"]
    visitor.click(next(one for one in visitor.all("#canvas .bar button") if one.text == "Undo"))
    visitor.wait(lambda: visitor.driver.execute_script(layer) not in (first, second, ""))
    assert len(visitor.field("click").get_attribute("value").split(";")) == 1
    visitor.click(visitor.one("#predict"))
    assert "phantom:he-tile?seed=7" in visitor.wait(lambda: "tumour" in visitor.text("#told") and visitor.text("#told"))


def test_models_are_found_by_task_and_words(visitor: Visitor, page: str) -> None:
    visitor.one("#modality textarea, #modality input").send_keys("H&E")
    model = lambda: visitor.one("#model input").get_attribute("value")  # noqa: E731
    visitor.wait(lambda: model().startswith("sam-histo-interactive"))
    visitor.wait(lambda: "Tumour region" in visitor.text("body"))
    visitor.driver.get(f"{page}/page/?model=toy-model")  # every model has an address
    visitor.wait(lambda: model().startswith("toy-model"))
    visitor.wait(lambda: "There are none: the network is as it was drawn" in visitor.text("body"))  # and its own words
    assert "phantom:he-tile" not in visitor.text("body")


def test_a_result_goes_with_its_model(visitor: Visitor, page: str) -> None:
    visitor.choose("#model", "toy-model")
    visitor.wait(lambda: "Bright places" in visitor.text("body"))
    visitor.choose("#sample", "sample:retina")
    visitor.canvas()
    visitor.click(visitor.one("#predict"))
    visitor.wait(lambda: "share of bright" in visitor.text("#numbers"))
    visitor.choose("#model", "sam-histo-interactive")
    visitor.wait(lambda: "share of bright" not in visitor.text("body") and not visitor.all("#figure img"))
    assert visitor.text("#told") == ""


def test_every_control_has_a_name_and_the_keyboard_reaches_it(visitor: Visitor, page: str) -> None:
    visitor.choose("#model", "toy-model")
    visitor.wait(lambda: "Bright places" in visitor.text("body"))
    visitor.choose("#sample", "sample:retina")
    visitor.canvas()
    named = """
      const name = (one) => one.getAttribute('aria-label') || one.getAttribute('alt') || one.textContent.trim() ||
        one.title || [...(one.labels || [])].map((label) => label.textContent.trim()).join(' ') ||
        (document.getElementById(one.getAttribute('aria-labelledby'))?.textContent);
      const seen = (one) => one.offsetParent !== null && getComputedStyle(one).visibility !== 'hidden';
      const all = [...document.querySelectorAll('button, input, textarea, select, img, canvas, a, [role=application]')];
      return all.filter((one) => seen(one) && !name(one)).map((one) => one.outerHTML.slice(0, 200));
    """
    assert visitor.driver.execute_script(named) == []
    assert visitor.driver.execute_script("return document.documentElement.lang").startswith("en")
    visitor.driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    at = """
      const one = document.activeElement;
      return one.closest('#canvas') ? one.tagName.toLowerCase() + ' of canvas' : one.id || one.tagName;
    """
    reached = set()
    for _ in range(60):
        ActionChains(visitor.driver).send_keys(Keys.TAB).perform()
        reached.add(visitor.driver.execute_script(at))
    assert {"canvas of canvas", "button of canvas", "predict", "cancel"} <= reached


def test_a_narrow_screen_needs_no_sideways_scrolling(visitor: Visitor, page: str) -> None:
    visitor.size(390, 840)
    visitor.driver.get(f"{page}/page/?model=toy-model")
    visitor.wait(lambda: "Bright places" in visitor.text("body"))
    visitor.choose("#sample", "sample:retina")
    canvas = visitor.canvas()
    assert visitor.driver.execute_script("return document.documentElement.scrollWidth") <= 390
    assert canvas.rect["width"] > 250


def test_a_prediction_is_cancelled(visitor: Visitor, page: str) -> None:
    visitor.choose("#model", "toy-model")
    visitor.wait(lambda: "Bright places" in visitor.text("body"))
    visitor.choose("#sample", "sample:retina")
    visitor.canvas()
    visitor.click(next(one for one in visitor.all("button") if one.text.strip().startswith("Options")))
    layers = visitor.field("layers")
    visitor.wait(lambda: visitor.click(layers) is None)  # once the options are unfolded
    layers.send_keys(Keys.CONTROL, "a")
    layers.send_keys("100000", Keys.TAB)
    visitor.click(visitor.one("#predict"))
    visitor.wait(lambda: "At work" in visitor.text("#told"))
    start = time.monotonic()
    visitor.click(visitor.one("#cancel"))
    assert "it was cancelled" in visitor.wait(lambda: visitor.text("#told [role=alert]"))
    assert time.monotonic() - start < 20
