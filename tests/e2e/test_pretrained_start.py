"""The demo's pretrained start has never seen the demo's people."""

import re

import pytest

from dataset.synthpedes.generate import draw_members
from tests.helpers.paths import REPOSITORY


@pytest.fixture(scope="module")
def counts():
    """People by split that a script draws, and its other numbers."""

    def of(script: str) -> dict[str, int]:
        text = (REPOSITORY / "shell" / script).read_text()
        return {name: int(number) for name, number in re.findall(r"--(people-\w+|seed) (\d+)", text)}

    return of


def test_no_person_id_or_seed_of_the_demo_comes_again(counts):
    """Drawn as the two scripts draw them; no pictures are needed to tell."""
    demo, pretrain = counts("common.sh"), counts("pretrain.sh")
    assert "--apart-from data/synthpedes" in (REPOSITORY / "shell/pretrain.sh").read_text()
    splits = ("train", "val", "test")
    own = draw_members({split: demo[f"people-{split}"] for split in splits}, 0.3, seed=0, others={})
    taken = {member.person_id: member.person for member in own}
    others = draw_members({split: pretrain[f"people-{split}"] for split in splits}, 0.3, pretrain["seed"], taken)
    assert pretrain["seed"] != 0
    assert (len(own), len(others)) == (1000, 24200)
    assert not {member.person_id for member in others} & set(taken)
    assert not {member.person for member in others} & set(taken.values())
    careless = draw_members({split: pretrain[f"people-{split}"] for split in splits}, 0.3, seed=0, others={})
    assert {member.person for member in careless} & set(taken.values())
