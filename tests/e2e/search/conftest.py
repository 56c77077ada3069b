"""A small model and its pictures for search.py, and the search page in a real browser (Chromium, headless).

The page is served with a gallery that needs no model. No test may send a request to another host or make a script fail:
`open_page` checks that at the end.
"""

import logging
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from gallery.service.app import create_app
from tests.helpers.benchmark import read_split
from tests.helpers.fake_gallery import FakeGallery
from tests.helpers.saved_models import save_search_model
from tests.helpers.search_runs import TOP_K
from utils.config import Config

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
TIMEOUT_MS = 60_000  # of any step: far more than it takes, also on a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        pytest.skip(f"no browser in the path ({', '.join(BROWSERS)}): shell/test.sh --with-browser installs one")
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
    """Start a service in a thread; returns its address."""
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
    """Open an address, by default that of the usual service, in a new browser window."""
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


# ---- the command line ----


@pytest.fixture(autouse=True)
def no_log_to_a_closed_stream() -> Iterator[None]:
    """A command logs to the standard error of its test. Later tests would log to that closed stream."""
    yield
    for handler in [h for h in logging.getLogger().handlers if "mamba-tbps" in (h.get_name() or "")]:
        logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="module")
def config(debug_config: Callable[..., Config]) -> Config:
    return debug_config(f"eval.rerank_top_k={TOP_K}", "dataset.cache=false")


@pytest.fixture(scope="module")
def checkpoint(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_search_model(config, tmp_path_factory.mktemp("model") / "best.pth")


@pytest.fixture(scope="module")
def images(tiny_benchmark: Path) -> Path:
    return tiny_benchmark / "imgs"


@pytest.fixture(scope="module")
def test_paths(tiny_benchmark: Path) -> list[str]:
    return [record["file_path"] for record in read_split(tiny_benchmark, "test")]
