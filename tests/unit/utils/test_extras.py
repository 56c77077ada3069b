"""Optional libraries."""

import json
import sys

import pytest

from utils.errors import UserError
from utils.extras import optional


def test_a_library_that_is_there():
    assert optional("json", "reading") is json


def test_one_that_is_missing_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"^video: av is missing; pip install -r requirements-video\.txt$"):
        optional("av", "video")


def test_one_that_lacks_a_library_of_the_system(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"pictures: broken_library cannot be loaded \(libGL.so.1: .*\); pip install x"):
        optional("broken_library", "pictures", "pip install x")
