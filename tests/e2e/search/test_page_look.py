"""The look of the search page for people and for screen readers, and signing in, in a real browser (conftest.py)."""

import pytest
from playwright.sync_api import expect

from tests.helpers.fake_gallery import FakeGallery
from tests.helpers.search_page import assert_nothing_sticks_out, screenshot, search

NARROW = {"width": 375, "height": 740}
TOKEN = "correct-horse-battery"
# Foreground and background, and the contrast that WCAG asks for: 4.5 for text, 3 for controls and bars.
CONTRASTS = [
    *[(ink, ground, 4.5) for ink in ("--ink", "--faint", "--accent") for ground in ("--page", "--panel")],
    ("--on-accent", "--accent", 4.5),
    ("--warn-ink", "--warn", 4.5),
    ("--bad-ink", "--bad", 4.5),
    ("--control", "--page", 3.0),
    ("--focus", "--page", 3.0),
]


def test_a_narrow_screen_shows_all_of_it(open_page, tmp_path):
    page = open_page(viewport=NARROW, has_touch=True)
    assert_nothing_sticks_out(page)
    search(page, "a woman with a very long sentence that goes on and on about a white shirt and blue jeans")
    assert_nothing_sticks_out(page)
    screenshot(page, tmp_path / "narrow.png")
    page.locator(".hit").first.tap()
    expect(page.locator("#words button").first).to_be_visible()
    assert_nothing_sticks_out(page)
    sizes = page.locator("dialog > header button").evaluate_all("all => all.map(one => one.offsetHeight)")
    assert min(sizes) >= 40  # px, wide enough for a finger
    screenshot(page, tmp_path / "narrow_detail.png")


def test_dark_and_light_look(open_page):
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light, dark = open_page(color_scheme="light"), open_page(color_scheme="dark")
    shades = [light.evaluate(background), dark.evaluate(background)]
    assert shades[0] != shades[1]
    dark.get_by_role("button", name="Look: auto").click()
    assert dark.evaluate(background) == shades[0]
    dark.reload()
    expect(dark.get_by_role("button", name="Look: light")).to_be_visible()  # it is remembered
    assert dark.evaluate(background) == shades[0]


@pytest.mark.parametrize("look", ["light", "dark"])
def test_text_and_controls_stand_out_from_their_ground(open_page, look):
    page = open_page(color_scheme=look)
    script = """name => {
        const probe = document.createElement('i');
        probe.style.color = `var(${name})`;
        document.body.append(probe);
        const colour = getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number); probe.remove(); return colour; }"""

    def luminance(name: str) -> float:
        red, green, blue = (
            share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
            for share in (value / 255 for value in page.evaluate(script, name)[:3])
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for ink, ground, least in CONTRASTS:
        dark, bright = sorted((luminance(ink), luminance(ground)))
        assert (bright + 0.05) / (dark + 0.05) >= least, (ink, ground)


def test_everything_has_a_name_for_a_screen_reader(open_page):
    page = open_page()
    search(page)
    page.locator(".hit").first.click()
    expect(page.locator("#words button")).to_have_count(10)
    assert page.locator("img:not([alt])").count() == 0
    nameless = "all => all.filter(one => !(one.getAttribute('aria-label') ?? one.textContent).trim()).length"
    assert page.locator("button").evaluate_all(nameless) == 0
    unlabelled = "all => all.filter(one => !one.labels.length).length"
    assert page.locator("input:not([hidden]), textarea").evaluate_all(unlabelled) == 0
    assert page.locator("#detail-image").get_attribute("alt") == "Image of result 1"
    assert page.locator("html").get_attribute("lang") == "en"


def test_sign_in_and_out(open_page, serve_app, crops, tmp_path):
    address = serve_app(FakeGallery(crops), token=TOKEN)
    page = open_page(address)
    expect(page).to_have_url(f"{address}/sign-in")
    page.get_by_label("Token").fill("not the token")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("This is not the token.")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#gallery-info")).to_have_text("12 images")
    search(page)
    page.locator(".hit").first.click()
    expect(page.locator("#detail-file")).to_have_text(crops[0].name)  # no folders of the server
    assert page.evaluate("document.cookie") == ""  # scripts cannot read it
    page.screenshot(path=tmp_path / "signed_in.png")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{address}/sign-in")
    page.goto(address)
    expect(page).to_have_url(f"{address}/sign-in")


def test_a_session_that_ended_leads_back_to_the_form(open_page, serve_app, crops):
    address = serve_app(FakeGallery(crops), token=TOKEN)
    page = open_page(address)
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#gallery-info")).to_have_text("12 images")
    page.context.clear_cookies()
    page.get_by_role("button", name="a man with a red backpack").click()
    expect(page).to_have_url(f"{address}/sign-in")
