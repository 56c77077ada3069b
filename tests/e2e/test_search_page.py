"""The search page in a real browser (Chromium, headless), over HTTP, with a gallery that needs no model.

Whatever a test does, no request may leave for another host and no script may fail: `open_page` checks it at the end.
"""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from gallery.service import create_app
from tests.unit.fake_gallery import COLUMNS, ROWS, FakeGallery

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
SENTENCE = "a young woman with a white shirt and blue jeans"
NARROW = {"width": 375, "height": 740}
TIMEOUT_MS = 60_000  # of any step: far more than it takes, also on a busy machine
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        pytest.skip(f"no browser in the path ({', '.join(BROWSERS)}): bash shell/test.sh installs one where it can")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def crops(tiny_benchmark: Path) -> list[Path]:
    return sorted((tiny_benchmark / "imgs").rglob("*.*"))[:12]


@pytest.fixture(scope="module")
def serve_app() -> Iterator[Callable[..., str]]:
    """Starts a service in a thread; returns its address."""
    running = []

    def start(gallery: FakeGallery, **options) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(gallery, **options), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def address(serve_app: Callable[..., str], crops: list[Path]) -> str:
    return serve_app(FakeGallery(crops))


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Opens an address in a fresh browser window; the address of the usual service unless told otherwise."""
    contexts, hosts, failures = [], [], []

    def opener(address: str | None = None, **options) -> Page:
        address = address or request.getfixturevalue("address")
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(TIMEOUT_MS)
        context.on("request", lambda sent: hosts.append(urlsplit(sent.url).netloc or urlsplit(sent.url).scheme))
        context.on("weberror", lambda error: failures.append(str(error.error)))
        contexts.append((context, urlsplit(address).netloc))
        page = context.new_page()
        page.on("console", lambda line: failures.append(line.text) if "Content Security" in line.text else None)
        page.goto(address)
        return page

    yield opener
    own = {netloc for _, netloc in contexts} | {"blob"}
    for context, _ in contexts:
        context.close()
    assert set(hosts) - own == set()
    assert failures == []


def search(page: Page, sentence: str = SENTENCE) -> None:
    page.get_by_label("Describe a person").fill(sentence)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text(sentence)
    expect(page.locator(".hit").first).to_be_visible()
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id") or ""


def heat(page: Page) -> list[list[int]]:
    """Opacity of the canvas over the picture: rows x columns; little where the model looks."""
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
        assert len(image.convert("RGB").getcolors(10**7)) > 500  # the crops are on it


def test_search_open_a_result_and_see_where_the_model_looks(open_page, crops, tmp_path):
    page = open_page()
    expect(page.locator("#gallery-info")).to_have_text("12 images")
    search(page)
    expect(page.locator("#status")).to_contain_text("12 results")
    expect(page.locator("#status")).to_contain_text("confidence 93\u00a0%")
    expect(page.locator(".hit")).to_have_count(12)
    expect(page.locator(".hit").nth(1)).to_have_attribute("aria-label", "Result 2, score 3.90, young woman 49\u00a0%, "
                                                          "white shirt 32\u00a0%, blue jeans 24\u00a0%")  # fmt: skip
    bars = page.locator(".hit").nth(1).locator(".bar")
    widths = [bar.evaluate("bar => bar.firstChild.offsetWidth / bar.offsetWidth") for bar in bars.all()]
    assert widths == pytest.approx([0.97 / 2, 0.97 / 3, 0.97 / 4], abs=0.02)
    screenshot(page, tmp_path / "results.png")

    page.locator(".hit").nth(1).click()
    expect(page.get_by_role("dialog", name="Result 2 of 12")).to_be_visible()
    expect(page.locator("#detail-file")).to_have_text(str(crops[1]))
    words = page.locator("#words button")
    expect(words).to_have_text(["a", "young1", "woman1", "with", "a", "white2", "shirt2", "and", "blue3", "jeans3"])
    assert heat(page) == []
    words.last.click()
    veil = heat(page)
    assert (len(veil), len(veil[0])) == (ROWS, COLUMNS)
    row = round(0.9 * (ROWS - 1))  # where the fake gallery puts the heat of the last word of ten
    assert min(map(min, veil)) == min(veil[row])
    screenshot(page, tmp_path / "overlay.png")

    # a part shows all of its words at once, another click shows the plain picture again
    part = page.locator("#parts button").nth(2)
    part.click()
    assert [word.get_attribute("aria-pressed") for word in words.all()] == ["false"] * 10
    assert sum(map(sum, heat(page))) < sum(map(sum, veil))
    part.click()
    assert heat(page) == []


def test_words_of_a_part_share_its_colour(open_page):
    page = open_page()
    search(page)
    page.locator(".hit").first.click()
    expect(page.locator("#words button")).to_have_count(10)
    colours = page.locator("#words button").evaluate_all(
        "all => all.map(one => getComputedStyle(one).borderBottomColor)"
    )
    young, woman, white, blue, plain = (colours[at] for at in (1, 2, 5, 8, 0))
    assert young == woman
    assert len({young, white, blue, plain}) == 4
    bar = page.locator("#parts .bar i").first.evaluate("bar => getComputedStyle(bar).backgroundColor")
    assert bar == young


def test_a_fast_answer_has_no_parts_and_no_numbers_of_them(open_page, tmp_path):
    page = open_page()
    page.get_by_label("Fast").check()
    search(page)
    page.locator(".hit").first.click()
    words = page.locator("#words button")
    expect(words).to_have_text(SENTENCE.split())
    expect(page.locator("#parts-section")).to_be_hidden()
    assert len(set(words.evaluate_all("all => all.map(one => getComputedStyle(one).borderBottomColor)"))) == 1
    words.nth(5).click()
    assert heat(page) != []
    screenshot(page, tmp_path / "fast_detail.png")


def test_everything_can_be_done_from_the_keyboard(open_page):
    page = open_page()
    assert focused(page) == "query"
    search(page)
    for _ in range(5):
        page.keyboard.press("Tab")
    assert focused(page).startswith("Result 1,")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    columns = page.evaluate(
        "(() => { const tops = [...document.querySelectorAll('.hit')].map(hit => hit.offsetTop);"
        " return tops.filter(top => top === tops[0]).length; })()"
    )
    for key, rank in (
        ("ArrowRight", 2),
        ("ArrowDown", 2 + columns),
        ("ArrowUp", 2),
        ("End", 12),
        ("ArrowRight", 12),
        ("Home", 1),
    ):
        page.keyboard.press(key)
        assert focused(page).startswith(f"Result {rank},"), key
    page.keyboard.press("Tab")
    assert not focused(page).startswith("Result")  # one stop for all results
    page.keyboard.press("Shift+Tab")

    page.keyboard.press("Enter")
    title = page.locator("#detail-title")
    expect(title).to_have_text("Result 1 of 12")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text("Result 3 of 12")
    expect(page.locator("#words button")).to_have_count(10)
    for _ in range(4):
        page.keyboard.press("Tab")  # the three buttons of the title, then the first word
    page.keyboard.press("Space")
    assert heat(page) != []
    page.keyboard.press("ArrowLeft")  # the word that had the focus is gone now
    expect(title).to_have_text("Result 2 of 12")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text("Result 1 of 12")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert focused(page).startswith("Result 2,")


def test_a_picture_finds_people_who_look_alike(open_page, crops, tmp_path):
    page = open_page()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="By picture").click()
    chooser.value.set_files(crops[3])
    expect(page.locator("#status")).to_contain_text("12 results for people like this one")
    assert page.locator("#status img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.locator(".hit").nth(4).click()
    expect(page.locator("#sentence")).to_be_hidden()  # no sentence, no words
    page.get_by_role("button", name="Find people who look like this").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("#status img")).to_have_attribute("src", "/api/image?id=id4&size=thumbnail")

    (tmp_path / "notes.txt").write_text("no picture")
    page.locator("#picture").set_input_files(tmp_path / "notes.txt")
    expect(page.get_by_role("alert")).to_contain_text("choose a JPEG, PNG or WebP file")
    (tmp_path / "broken.jpg").write_text("no picture either")
    page.locator("#picture").set_input_files(tmp_path / "broken.jpg")
    expect(page.get_by_role("alert")).to_contain_text("The file is no readable picture")


def test_it_says_when_nothing_matches(open_page):
    page = open_page()
    search(page, "nobody with a purple hat")
    banner = page.locator("#nothing")
    expect(banner).to_contain_text("Nothing here seems to match.")
    expect(banner).to_contain_text("7\u00a0%")
    search(page)
    expect(banner).to_be_hidden()


def test_an_index_without_calibration_and_second_stage_and_an_empty_one(open_page, serve_app, crops):
    page = open_page(serve_app(FakeGallery(crops[:2], calibrated=False, second_stage=False)))
    expect(page.locator("#gallery-info")).to_contain_text("not calibrated")
    search(page, "nobody with a purple hat")
    expect(page.locator("#nothing")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("fast ranking (the model of this index knows no other)")
    page.locator(".hit").first.click()
    expect(page.locator("#words button")).to_have_count(5)
    expect(page.locator("#parts-section")).to_be_hidden()
    page = open_page(serve_app(FakeGallery([])))
    page.get_by_role("button", name="a man with a red backpack").click()
    expect(page.locator("#nothing")).to_have_text("The gallery is empty.")


def test_busy_failing_and_unreachable(open_page, serve_app, crops):
    gallery, goes_on = FakeGallery(crops), threading.Event()

    def slow_query(sentence, *, top, fast):
        assert goes_on.wait(60)
        return FakeGallery.query(gallery, sentence, top=top, fast=fast)

    gallery.query = slow_query  # type: ignore[method-assign]
    page = open_page(serve_app(gallery))
    page.get_by_label("Describe a person").fill("crash")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#status")).to_have_text("Searching “crash” …")
    goes_on.set()
    expect(page.get_by_role("alert")).to_have_text("The service failed; its log says why.")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    search(page)
    expect(page.get_by_role("alert")).to_be_hidden()
    page.context.set_offline(True)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("The service does not answer. Is it still running?")


def test_what_the_gallery_says_is_never_read_as_html(open_page):
    page = open_page()
    page.get_by_label("Describe a person").fill("a <b>man</b> <img src=x onerror=document.title='hacked'>")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("<b>man</b>")
    page.locator(".hit").first.click()
    expect(page.locator("#words button")).not_to_have_count(0)
    assert page.locator("main b, dialog b").count() == 0
    assert page.title() == "Person search"


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
    assert min(sizes) >= 40  # px: a finger
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
    expect(page.locator("#detail-file")).to_have_text(crops[0].name)  # folders of the server are not told
    assert page.evaluate("document.cookie") == ""  # no script can read it
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
