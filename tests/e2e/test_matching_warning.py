"""train.py warns where the matching head learns nothing."""

from tests.helpers.runs import train_and_record
from training import matching_watch


def test_the_run_that_stays_at_chance_says_so_in_one_line(debug_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(matching_watch, "BLOCKS", 2)  # the run has few steps
    monkeypatch.setattr(matching_watch, "NEAR", 0.5)
    for name, wanted in (("itm=1", 1), ("itm=0", 0)):
        folder = tmp_path / name
        arguments = debug_settings("train.epochs=1", f"losses.weights.{name}")
        train_and_record([*arguments, "--output", str(folder)])
        log = (folder / "train.log").read_text()
        assert sum("itm has stayed at 0.6365" in line for line in log.splitlines()) == wanted
