"""Batches of samples."""

import torch

from dataset.batches import CaptionBatch, ImageBatch, TrainBatch, collate, collate_for_gpu, to_device
from dataset.texts import Bucket, Texts
from training.step import split


def tokens(*ids, attributes=None):
    input_ids = torch.tensor(ids)
    return Texts(input_ids, torch.ones_like(input_ids), torch.tensor(attributes or [0] * len(ids)))


def train_sample(number, text_1, text_2):
    image = torch.full((3, 4, 2), number, dtype=torch.uint8)
    return TrainBatch(image, image + 1, text_1, text_2, torch.tensor(number), torch.tensor(number % 2))


def test_texts_are_padded_to_the_longest_of_their_own_field():
    batch = collate(
        [
            train_sample(1, tokens(101, 7, attributes=[0, 1]), tokens(101)),
            train_sample(2, tokens(101, 8, 9), tokens(101, 5, attributes=[0, 2])),
        ]
    )
    assert batch.text_1.input_ids.tolist() == [[101, 7, 0], [101, 8, 9]]
    assert batch.text_1.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.text_1.attribute_ids.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert batch.text_2.input_ids.tolist() == [[101, 0], [101, 5]]
    assert batch.text_2.attribute_ids.tolist() == [[0, 0], [0, 2]]


def test_shapes_and_types_of_a_training_batch():
    batch = collate([train_sample(number, tokens(101), tokens(101, 3)) for number in range(3)])
    assert isinstance(batch, TrainBatch)
    assert isinstance(batch.text_2, Texts)
    assert batch.image_1.shape == batch.image_2.shape == (3, 3, 4, 2)
    assert batch.image_1.dtype == torch.uint8
    assert batch.image_2[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert batch.person_id.tolist() == [0, 1, 2]
    assert batch.replaced.tolist() == [0, 1, 0]
    assert {batch.person_id.dtype, batch.replaced.dtype, batch.text_1.input_ids.dtype} == {torch.int64}


def test_evaluation_batches():
    images = collate([ImageBatch(torch.zeros(3, 2, 2, dtype=torch.uint8), torch.tensor(9))] * 2)
    assert isinstance(images, ImageBatch)
    assert images.image.shape == (2, 3, 2, 2)
    captions = collate([CaptionBatch(tokens(101, 4), torch.tensor(9)), CaptionBatch(tokens(101), torch.tensor(3))])
    assert captions.text.attention_mask.tolist() == [[1, 1], [1, 0]]
    assert captions.person_id.tolist() == [9, 3]


def test_a_batch_for_a_gpu_has_one_length_and_one_bucket():
    long, short = tokens(101, 7, 8, attributes=[0, 1, 1]), tokens(101)
    batch = collate_for_gpu([train_sample(1, long, short), train_sample(2, short, long)], parts=1, shares=(0.5,))
    assert batch.text_1.input_ids.shape == batch.text_2.input_ids.shape == (2, 16)
    assert batch.text_1.bucket == batch.text_2.bucket
    # of the first half alone, text_1 has 3 of 16 places: two eighths; 2 of them in chunks: one eighth
    assert batch.text_1.bucket == Bucket(tokens=2, chunk_tokens=1, most_chunk_tokens=1)
    assert batch.text_1.first(1).tokens().at_most == 4
    assert batch.text_1.tokens().at_most == 8
    assert batch.text_1.first(1).class_and_chunk_tokens().at_most == 1 + 2
    assert batch.text_1.num_words() == 8 - 2
    assert batch.text_2.chosen(torch.tensor([1, 1])).tokens().at_most == 2 * 16


def test_a_bucket_bounds_every_part_of_every_batch():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        lengths = torch.randint(1, 40, (8, 2), generator=generator).tolist()
        samples = [
            train_sample(0, *(tokens(*range(1, n + 1), attributes=[k % 3 for k in range(n)]) for n in pair))
            for pair in lengths
        ]
        batch = collate_for_gpu(samples, parts=2, shares=(0.5,))
        for part in split(batch, 2):
            for texts in (part.text_1, part.text_2, part.text_1.first(2), part.text_2.first(2)):
                for places in (texts.tokens(), texts.class_tokens(), texts.class_and_chunk_tokens()):
                    assert int((places.mask > 0).sum()) <= places.at_most <= places.mask.numel()


def test_to_device_reaches_every_tensor():
    batch = collate_for_gpu([train_sample(1, tokens(101), tokens(101))], parts=1, shares=(1.0,))
    moved = to_device(batch, "meta")
    assert isinstance(moved, TrainBatch)
    assert isinstance(moved.text_2, Texts)
    assert {tensor.device.type for tensor in (*moved[:2], *moved.text_1[:3], *moved.text_2[:3], *moved[4:])} == {"meta"}
    assert moved.text_1.bucket == batch.text_1.bucket
    assert moved.image_1.shape == batch.image_1.shape
