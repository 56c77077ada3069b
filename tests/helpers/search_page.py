"""Actions and checks of the tests of the search page."""

from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

SENTENCE = "a young woman with a white shirt and blue jeans"


def search(page: Page, sentence: str = SENTENCE) -> None:
    page.get_by_label("Describe a person").fill(sentence)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text(sentence)
    expect(page.locator(".hit").first).to_be_visible()
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id") or ""


def heat(page: Page) -> list[list[int]]:
    """Opacity of the canvas over the picture, rows x columns: low where the model looks."""
    if page.locator("#heat").is_hidden():
        return []
    script = """canvas => ({width: canvas.width, height: canvas.height,
        pixels: [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]})"""
    canvas = page.locator("#heat").evaluate(script)
    alpha = canvas["pixels"][3::4]
    return [alpha[row * canvas["width"] : (row + 1) * canvas["width"]] for row in range(canvas["height"])]


def assert_nothing_sticks_out(page: Page) -> None:
    width = page.viewport_size["width"]  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    script = """width => [...document.querySelectorAll('body *')]
        .filter(one => one.checkVisibility() && one.getBoundingClientRect().right > width + 1)
        .map(one => one.outerHTML)"""
    assert page.evaluate(script, width) == []


def screenshot(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    with Image.open(path) as image:
        assert len(image.convert("RGB").getcolors(10**7)) > 500  # it shows the crops
