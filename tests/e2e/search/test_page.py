"""Searching with the page, in a real browser (conftest.py)."""

import threading

import pytest
from playwright.sync_api import expect

from tests.helpers.fake_gallery import COLUMNS, ROWS, FakeGallery
from tests.helpers.search_page import SENTENCE, focused, heat, screenshot, search


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
    expect(page.locator("#query")).to_be_focused()
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
    assert not focused(page).startswith("Result")  # the results are a single tab stop
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
    expect(page.locator("#heat")).to_be_visible()
    assert heat(page) != []
    page.keyboard.press("ArrowLeft")  # the word that had the focus is gone now
    expect(title).to_have_text("Result 2 of 12")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text("Result 1 of 12")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator(".hit").nth(1)).to_be_focused()  # by the close event, which comes after the dialog is hidden
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

    def slow_query(sentence, **options):
        assert goes_on.wait(60)
        return FakeGallery.query(gallery, sentence, **options)

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
