"""Saving a figure."""

from figures.style import new_figure, save


def test_a_number_in_a_name_is_no_suffix(tmp_path):
    files = save(new_figure(1, 1), tmp_path / "momentum_0.995")
    assert [path.name for path in files] == ["momentum_0.995.png", "momentum_0.995.pdf"]
    assert all(path.is_file() for path in files)
