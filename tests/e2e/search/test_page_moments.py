"""Filters, groups, the full frame with its track and video, marks, and remarks on the page (conftest.py)."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from gallery.footage.origin import Origin
from tests.helpers.fake_gallery import FakeGallery
from tests.helpers.search_page import SENTENCE, assert_nothing_sticks_out, focused, search

pytest.importorskip("av", reason="requirements-video.txt not installed")

from dataset.synthpedes.footage import compose, write_footage

FPS, SIZE = 5, (192, 108)
NARROW = {"width": 375, "height": 740}


@pytest.fixture(scope="module")
def origins(tmp_path_factory) -> dict[str, Origin]:
    """id0, id1 and id2: a track in a video of six seconds; id3: from a picture. The others come from nowhere."""
    folder: Path = tmp_path_factory.mktemp("recordings")
    video, picture = folder / "cam1.mp4", folder / "day.png"
    write_footage(video, compose(size=SIZE, fps=FPS, seconds=6, people=2, scene="wall", seed=1))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)).save(picture)
    eight = datetime(2026, 11, 20, 8)
    track = {
        f"id{n}": Origin(
            str(video), frame, frame / FPS, eight + timedelta(seconds=frame / FPS), (48, 27, 96, 81), SIZE, 0.9, 1
        )
        for n, frame in enumerate((15, 5, 20))
    }
    return {**track, "id3": Origin(str(picture), 0, None, None, (9, 9, 30, 40), (60, 50), None, None)}


@pytest.fixture
def gallery(crops, origins) -> FakeGallery:
    return FakeGallery(crops, origins=origins)


@pytest.fixture
def page(open_page, serve_app, gallery) -> Page:
    return open_page(serve_app(gallery))


def test_one_result_per_track_says_how_many_and_when(page):
    search(page)
    expect(page.locator(".hit")).to_have_count(10)
    expect(page.locator(".hit").first.locator(".seen span")).to_have_text(
        ["3 pictures", "2026-11-20 08:00:01 \u2013 08:00:04"]
    )
    assert "3 pictures" in (page.locator(".hit").first.get_attribute("aria-label") or "")
    expect(page.locator(".hit").nth(1).locator(".seen")).to_have_count(0)
    page.locator("#filters summary").click()
    page.get_by_label("One result per person").uncheck()
    page.locator("#query").press("Enter")
    expect(page.locator(".hit")).to_have_count(12)


def test_filters_narrow_the_search_and_say_that_they_are_on(page, gallery, origins):
    page.locator("#filters summary").click()
    assert page.locator("#sources option").count() == 2
    page.get_by_label("Recording").fill("day*")
    page.get_by_label("From").fill("2026-11-20T08:00")
    page.get_by_label("Height at least, px").fill("80")
    page.locator("#filters summary").click()
    expect(page.locator("#filters summary")).to_have_text("Filters: 3 on")
    search(page)
    expect(page.locator(".hit")).to_have_count(1)
    asked = gallery.asked[-1][-1]
    assert {name: str(value) for name, value in asked.items()}.keys() == {"source", "after", "min_height"}
    page.locator("#filters summary").click()
    page.get_by_label("Recording").fill("elsewhere*")
    page.locator("#query").press("Enter")
    expect(page.locator("#problem")).to_have_text("No source matches.")
    page.get_by_role("button", name="Clear filters").click()
    search(page)
    expect(page.locator(".hit")).to_have_count(10)


def test_the_full_frame_the_track_and_the_video(page, origins):
    search(page)
    page.locator(".hit").first.click()
    expect(page.locator("#moment-source")).to_have_text(origins["id0"].source)
    expect(page.locator("#moment-time")).to_have_text("2026-11-20 08:00:03, 0:03 in the video")
    expect(page.locator("#frame-image")).to_have_js_property("naturalWidth", SIZE[0])
    frame, box = (page.locator(name).bounding_box() for name in ("#frame", "#frame-box"))
    assert frame is not None
    assert box is not None
    place = [(box["x"] - frame["x"]) / frame["width"], (box["y"] - frame["y"]) / frame["height"]]
    assert [*place, box["width"] / frame["width"], box["height"] / frame["height"]] == pytest.approx(
        [0.25, 0.25, 0.25, 0.5], abs=0.02
    )
    expect(page.locator("#place")).to_have_text("Picture 2 of 3 of this person")
    page.keyboard.press("Shift+ArrowRight")  # a later crop of the same result
    expect(page.locator("#moment-time")).to_contain_text("08:00:04")
    expect(page.locator("#detail-title")).to_have_text("Result 1 of 10")
    expect(page.locator("#detail-image")).to_have_attribute("src", "/api/image?id=id2&size=full")
    expect(page.get_by_role("button", name="Later picture of this person")).to_be_disabled()

    page.get_by_role("button", name="Play from 2 s before").click()
    expect(page.locator("#video")).to_be_visible()
    expect(page.locator("#frame-image")).to_be_hidden()
    seen = """video => new Promise(resolve => video.addEventListener(
        'timeupdate', () => video.currentTime > 1 && resolve(video.currentTime)))"""
    assert 1.9 < page.locator("#video").evaluate(seen) < 4
    page.get_by_role("button", name="Next result").click()  # from a picture: no video, no track
    expect(page.locator("#video")).to_be_hidden()
    expect(page.get_by_role("button", name="Play from 2 s before")).to_be_hidden()
    expect(page.locator("#steps")).to_be_hidden()
    page.get_by_role("button", name="Next result").click()
    expect(page.locator("#moment")).to_be_hidden()  # a plain picture


def test_a_recording_that_is_gone_says_so_and_a_service_that_blurs_plays_nothing(
    open_page, serve_app, crops, origins, tmp_path
):
    gone = origins["id0"]._replace(source=str(tmp_path / "gone.mp4"), track=None)
    page = open_page(serve_app(FakeGallery(crops[:1], origins={"id0": gone}), blur_others=True))
    search(page)
    page.locator(".hit").first.click()
    expect(page.locator("#moment-problem")).to_contain_text("gone")
    expect(page.get_by_role("button", name="Play from 2 s before")).to_be_hidden()


def test_marks_refine_the_search_by_mouse_and_by_keyboard(page, gallery):
    search(page)
    expect(page.locator("#refine")).to_be_hidden()
    page.locator(".hit").first.focus()
    page.keyboard.press("Tab")
    assert focused(page) == "More like result 1"
    page.keyboard.press("Space")
    page.locator(".hit").nth(1).click()
    page.get_by_role("button", name="Not this one").click()
    page.keyboard.press("Escape")
    expect(page.locator("#marked")).to_have_text("Marked: 1 like this, 1 not this")
    expect(page.get_by_role("button", name="Not result 2")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Refine").click()
    expect(page.locator("#status")).to_contain_text("refined by your marks")
    expect(page.locator(".hit")).to_have_count(9)
    assert gallery.asked[-1] == ("query", SENTENCE, 20, False, {"liked": ["id0"], "disliked": ["id3"]})
    expect(page.get_by_role("button", name="More like result 1")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Clear marks").click()
    expect(page.locator(".hit")).to_have_count(10)
    expect(page.locator("#refine")).to_be_hidden()

    page.locator(".mark.liked").first.click()
    page.locator(".hit").nth(2).click()
    page.get_by_role("button", name="Find people who look like this").click()  # another search: the marks are gone
    expect(page.locator("#status")).to_contain_text("people like this one")
    expect(page.locator("#refine")).to_be_hidden()


def test_how_the_sentence_was_read_is_said_above_the_results(page):
    search(page)
    expect(page.locator("#remarks")).to_be_hidden()
    search(page, "a man without glasses and with 书包")
    expect(page.locator("#remarks")).to_contain_text("Not understood: “书包”.")
    expect(page.locator("#remarks")).to_contain_text("Read as what the person must not have: “glasses”.")


def test_a_narrow_screen_shows_filters_marks_and_frame(open_page, serve_app, gallery):
    page = open_page(serve_app(gallery), viewport=NARROW, has_touch=True)
    search(page)
    page.locator("#filters summary").tap()
    page.locator(".mark.liked").first.tap()
    assert_nothing_sticks_out(page)
    page.locator(".hit").first.tap()
    expect(page.locator("#frame-image")).to_have_js_property("naturalWidth", SIZE[0])
    assert_nothing_sticks_out(page)
