"""A headless Chromium that opens pages by file://, without any network."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip
# An element is too wide if it reaches out of the window and nothing around it scrolls or cuts.
_TOO_WIDE = """
const held = (e) => { for (let p = e.parentElement; p; p = p.parentElement) {
  if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return true; }
  return false; };
return [...document.querySelectorAll("body *")].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width > 1 && box.right > window.innerWidth + 1 && box.left >= 0 && !held(e);
}).map((e) => e.tagName + "." + (e.className.baseVal ?? e.className));
"""
_SMALL = """
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = new Set();
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(e.tagName)) continue;
  if (parseFloat(getComputedStyle(e).fontSize) < 12) found.add(e.tagName + "." + e.className);
}
return [...found];
"""
# Contrast of every visible text with the ground that it stands on.
_PALE = """
const rgb = (t) => t.match(/[\\d.]+/g).map(Number)
  .map((v, i) => t.startsWith("color(srgb") && i < 3 ? v * 255 : v);
const lum = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.99) return c; }
  return [255, 255, 255]; };
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = new Set();
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(e.tagName)) continue;
  if (!e.checkVisibility() || e.closest("svg")) continue;
  const [a, b] = [lum(rgb(getComputedStyle(e).color)), lum(ground(e))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) found.add(e.tagName + "." + e.className);
}
return [...found];
"""


class Browser:
    """What the tests ask of a browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path) -> None:
        self.driver.get(page.as_uri())

    def look(self, width: int, *, dark: bool = False, media: str = "") -> None:
        """At a width in CSS pixels, light or dark, on a screen or in print."""
        self._command("Emulation.setDeviceMetricsOverride", width=width, height=900,
                      deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", media=media, features=[theme])

    def shot(self, file: Path) -> Path:
        """A picture of the whole page."""
        wide, high = self.run("return [window.innerWidth, document.documentElement.scrollHeight];")
        clip = {"x": 0, "y": 0, "width": wide, "height": min(high, 12_000), "scale": 1}
        found = self._command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(found["data"]))
        return file

    def pdf(self, file: Path) -> Path:
        found = self._command("Page.printToPDF", preferCSSPageSize=True)
        file.write_bytes(base64.b64decode(found["data"]))
        return file

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        logged = (json.loads(e["message"])["message"] for e in self.driver.get_log("performance"))
        sent = (m["params"] for m in logged if m["method"] == "Network.requestWillBeSent")
        return [params["request"]["url"] for params in sent]

    def too_wide(self) -> list[str]:
        return list(self.run(_TOO_WIDE))

    def too_small(self) -> list[str]:
        return list(self.run(_SMALL))

    def too_pale(self) -> list[str]:
        return list(self.run(_PALE))

    def _command(self, name: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)


def why_no_browser() -> str:
    """Why these tests cannot run here; empty if they can."""
    if find_spec("selenium") is None:
        return "selenium is not installed: pip install selenium"
    missing = [n for n in ("chromium", "chromedriver") if shutil.which(n) is None]
    return f"there is no {' and no '.join(missing)} on this machine" if missing else ""


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile, which ends with the block."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
