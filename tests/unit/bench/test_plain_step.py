"""The step of train.py against the one written plainly (bench/plain_step.py): float32, so 1e-5 of the largest value."""

from functools import partial

import pytest
import torch

from bench import parts
from bench.same_draws import SameDraws
from bench.step_cases import PLAIN, WITHOUT_DROPOUT, Variant, build, gradients, step
from bench.step_parts import own_parts, plain_parts

OURS = Variant(False, "fp32")


def one_person(batch):
    """No negatives for anybody."""
    return batch._replace(person_id=torch.zeros_like(batch.person_id))


def no_chunks(batch):
    none = torch.zeros_like(batch.text_2.attribute_ids)
    return batch._replace(text_2=batch.text_2._replace(attribute_ids=none))


@pytest.mark.parametrize("share", [1, 0.25])
@pytest.mark.parametrize("change", [lambda batch: batch, one_person, no_chunks])
def test_losses_and_gradients_are_those_of_the_plain_step(debug_config, share, change):
    config = debug_config(*WITHOUT_DROPOUT, f"losses.cross_modal_share={share}", "optimizer.clip_norm=null")
    cases = {variant: build(config, variant, torch.device("cpu")) for variant in (PLAIN, OURS)}
    cases = {variant: case._replace(batch=change(case.batch)) for variant, case in cases.items()}
    for number in range(2):  # the second with moved momentum encoders and a queue that is not empty
        draws = SameDraws()
        stepped = []
        for variant, case in cases.items():
            with draws.of_a_step():
                stepped.append(step(case, variant))
        plain, ours = stepped
        assert plain.keys() == ours.keys()
        for key, loss in plain.items():
            torch.testing.assert_close(ours[key], loss, rtol=1e-5, atol=1e-5, msg=f"{key} of step {number}")
        largest = max(float(gradient.abs().max()) for gradient in gradients(cases[PLAIN]))
        for one, other in zip(gradients(cases[PLAIN]), gradients(cases[OURS]), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * largest)
        queues = (case.state.queue.state_dict() for case in cases.values())
        torch.testing.assert_close(*queues, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", [PLAIN, OURS])
def test_shares_of_parts_add_up(debug_config, variant):
    case = build(debug_config(*WITHOUT_DROPOUT), variant, torch.device("cpu"))
    found = parts.shares(partial(step, case, variant), (plain_parts if variant.plain else own_parts)(case.state), "cpu")
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) > 0
    assert found["cross-modal mode"] > found["losses"]
    assert found[parts.REST] < 0.5
