"""Whether an index stores the tokens of its images."""

import pytest

from gallery.indexing.footprint import chosen_token_shape
from utils.errors import UserError


def test_tokens_are_kept_where_they_are_needed_and_fit(debug_config, tmp_path, monkeypatch):
    free = {"bytes": 10**9}
    monkeypatch.setattr(
        "gallery.indexing.footprint.shutil.disk_usage", lambda _: type("Usage", (), {"free": free["bytes"]})
    )
    config = debug_config("eval.rerank_top_k=8")
    shape, per_image = [17, 48], 17 * 48 * 2
    assert chosen_token_shape(config, 1000, "auto", tmp_path / "new" / "index") == shape
    free["bytes"] = 1000 * per_image * 3  # room, but less than four times
    assert chosen_token_shape(config, 1000, "auto", tmp_path) is None
    assert chosen_token_shape(config, 1000, "yes", tmp_path) == shape
    assert chosen_token_shape(config, 1000, "no", tmp_path) is None
    free["bytes"] = 1000 * per_image
    with pytest.raises(UserError, match="--tokens no needs"):
        chosen_token_shape(config, 1000, "yes", tmp_path)
    free["bytes"] = 1000
    with pytest.raises(UserError, match="the index needs"):
        chosen_token_shape(config, 1000, "auto", tmp_path)
    free["bytes"] = 10**9
    assert chosen_token_shape(debug_config("eval.rerank_top_k=0"), 1000, "auto", tmp_path) is None
