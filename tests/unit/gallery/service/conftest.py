"""A gallery without a model and a client of its service."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.helpers.fake_gallery import FakeGallery, client_for, fake_gallery


@pytest.fixture
def gallery(tmp_path: Path) -> FakeGallery:
    return fake_gallery(tmp_path)


@pytest.fixture
def client(gallery: FakeGallery) -> TestClient:
    return client_for(gallery)
