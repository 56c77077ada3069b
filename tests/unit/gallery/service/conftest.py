"""A gallery without a model and a client of its service."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.helpers.fake_gallery import FakeGallery, client_for, fake_gallery
from tests.helpers.recordings import filmed, record


@pytest.fixture
def gallery(tmp_path: Path) -> FakeGallery:
    return fake_gallery(tmp_path)


@pytest.fixture
def client(gallery: FakeGallery) -> TestClient:
    return client_for(gallery)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    record(folder)
    return folder


@pytest.fixture
def filmed_gallery(tmp_path: Path, recordings: Path) -> FakeGallery:
    """Crops of a video and a picture, and a plain picture."""
    return filmed(tmp_path, recordings)
