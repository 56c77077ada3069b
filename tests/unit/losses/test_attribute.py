"""Attribute loss: how chunks and pairs are averaged, absent chunks, what is refused."""

import math

import pytest
import torch

from losses.attribute import attribute_loss, chunks_kept


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


SURE = [0.0, math.log(3)]  # softmax (1/4, 3/4): costs log(4/3) under label 1, log(4) under label 0
EQUAL = [0.0, 0.0]  # costs log 2


def test_mean_over_chunks_then_over_pairs():
    logits = torch.tensor([[SURE, EQUAL], [SURE, EQUAL], [EQUAL, EQUAL]])
    present = torch.tensor([[True, True], [True, False], [False, False]])
    expected = ((math.log(4 / 3) + math.log(2)) / 2 + math.log(4)) / 2
    torch.testing.assert_close(attribute_loss(logits, present, torch.tensor([1, 0, 1])), torch.tensor(expected))


def test_each_chunk_may_have_its_own_label():
    logits = torch.tensor([[SURE, SURE], [SURE, EQUAL]])
    present = torch.tensor([[True, True], [True, False]])
    labels = torch.tensor([[1, 0], [0, 1]])
    expected = ((math.log(4 / 3) + math.log(4)) / 2 + math.log(4)) / 2
    torch.testing.assert_close(attribute_loss(logits, present, labels), torch.tensor(expected))


def test_a_chunk_is_kept_if_all_its_words_are():
    chunk_ids = torch.tensor([[0, 1, 1, 0, 2, 2, 0], [0, 1, 1, 2, 2, 3, 3]])
    replaced = torch.tensor([[0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 1, 1, 0, 0]]).bool()
    assert chunks_kept(replaced, chunk_ids, 3).tolist() == [[0, 1, 1], [1, 0, 1]]


def test_absent_chunks_may_be_nan_and_get_no_gradient():
    logits = torch.tensor([[SURE, [math.nan, math.nan]], [EQUAL, EQUAL]], requires_grad=True)
    present = torch.tensor([[True, False], [False, False]])
    loss = attribute_loss(logits, present, torch.tensor([1, 1]))
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(math.log(4 / 3)))
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.25, -0.25], EQUAL], [EQUAL, EQUAL]]))


@pytest.mark.parametrize("num_chunks", [0, 2])
def test_a_batch_without_chunks_gives_zero_with_a_graph(num_chunks):
    logits = torch.randn(2, num_chunks, 2, requires_grad=True)
    loss = attribute_loss(logits, torch.zeros(2, num_chunks, dtype=torch.bool), torch.tensor([1, 0]))
    loss.backward()
    assert loss == 0
    torch.testing.assert_close(logits.grad, torch.zeros(2, num_chunks, 2))


def test_half_precision_logits_are_lifted():
    loss = attribute_loss(torch.zeros(1, 1, 2).bfloat16(), torch.tensor([[True]]), torch.tensor([1]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_differing_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be \(R, C, 2\), \(R, C\) and \(R,\)"):
        attribute_loss(torch.zeros(2, 3, 2), torch.zeros(2, 4, dtype=torch.bool), torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"must be \(R, C, 2\), \(R, C\) and \(R,\)"):
        attribute_loss(torch.zeros(2, 3, 2), torch.zeros(2, 3, dtype=torch.bool), torch.tensor([1]))
