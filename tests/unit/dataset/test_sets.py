"""Records to samples: pairs, weak positives, flips, labels, bad images."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import attributes
from dataset.attributes import Parser
from dataset.batches import collate
from dataset.captions import clean_caption
from dataset.images import BadImage
from dataset.records import Record
from dataset.sets import encode_captions, load_eval_sets, load_train_set
from dataset.tokenizer import encode, load_tokenizer
from tests.helpers.paths import VECTORS

CUHK = VECTORS / "data_process" / "CUHK-PEDES"
SIZE = (8, 4)
RECORDS = [
    Record(30, "c.png", ("A girl, in blue jeans!", "A girl in blue jeans.")),
    Record(7, "a.png", ("A man in a black coat.", "Walking away.")),
    Record(7, "b.png", ("The man has red shoes and short hair.",)),
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("all-MiniLM-L6-v2")


@pytest.fixture(autouse=True)
def word_list(monkeypatch):
    """The list of words instead of spaCy, which takes seconds to load."""
    monkeypatch.setattr(attributes, "installed_parser", lambda: Parser("word list, test", None))


def make_images(root: Path, records: list[Record]) -> None:
    for number, record in enumerate(records):
        path = root / "imgs" / record.file_path
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")


@pytest.fixture
def root(tmp_path):
    make_images(tmp_path, RECORDS)
    return tmp_path


def train_set(root, tokenizer, records=RECORDS, **changes):
    arguments = {
        "tokenizer": tokenizer,
        "image_size": SIZE,
        "max_words": 90,
        "weak_positive_probability": 0.5,
        "cache": False,
        "on_bad_image": "error",
        "seed": 3,
        "workers": 0,
    }
    return load_train_set(root, records, **(arguments | changes))


def eval_sets(root, tokenizer, records=RECORDS, **changes):
    arguments = {"image_size": SIZE, "max_words": 90, "cache": False, "on_bad_image": "error", "workers": 0}
    return load_eval_sets(root, records, split="test", tokenizer=tokenizer, **(arguments | changes))


def text_of(tokenizer, tokens):
    return tokenizer.decode(tokens.input_ids[1:].tolist())


def pixels_of(root, path):
    with Image.open(root / "imgs" / path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_rows_are_pairs_of_an_image_and_its_caption(root, tokenizer):
    data = train_set(root, tokenizer, weak_positive_probability=0.0)
    assert len(data) == 5
    assert data.num_people == 2
    texts = []
    for row in range(5):
        sample = data[0, row]
        text = text_of(tokenizer, sample.text_1)
        assert torch.equal(sample.text_1.input_ids, sample.text_2.input_ids)
        assert sample.replaced == 0
        (record,) = (r for r in RECORDS if text in [clean_caption(caption, 90) for caption in r.captions])
        assert sample.person_id == {7: 0, 30: 1}[record.person_id]
        own = pixels_of(root, record.file_path)
        for image in (sample.image_1, sample.image_2):
            assert torch.equal(image, own) or torch.equal(image, own.flip(-1))
        texts.append(text)
    assert sorted(texts) == sorted(clean_caption(caption, 90) for record in RECORDS for caption in record.captions)


def test_both_images_are_flipped_independently_half_of_the_time(root, tokenizer):
    data = train_set(root, tokenizer)
    original = pixels_of(root, "a.png")
    flips = np.array(
        [
            [not torch.equal(image, original) for image in (sample.image_1, sample.image_2)]
            for sample in (data[epoch, 0] for epoch in range(400))
        ]
    )
    assert np.abs(flips.mean(axis=0) - 0.5).max() < 0.08  # three standard deviations
    assert abs((flips[:, 0] & flips[:, 1]).mean() - 0.25) < 0.07


def test_weak_positives_are_any_caption_of_the_person(root, tokenizer):
    data = train_set(root, tokenizer)
    drawn: dict[str, int] = {}
    for epoch in range(600):
        sample = data[epoch, 0]
        own, other = text_of(tokenizer, sample.text_1), text_of(tokenizer, sample.text_2)
        assert own == "a man in a black coat"
        assert sample.replaced == int(own != other)
        drawn[other] = drawn.get(other, 0) + 1
    # Own with probability 1/2, and each of the three with 1/2 * 1/3.
    assert drawn.keys() == {"a man in a black coat", "walking away", "the man has red shoes and short hair"}
    assert abs(drawn["walking away"] / 600 - 1 / 6) < 0.05
    assert abs(drawn["a man in a black coat"] / 600 - 2 / 3) < 0.06


def test_captions_that_differ_in_punctuation_only_count_as_the_same(root, tokenizer):
    data = train_set(root, tokenizer, weak_positive_probability=1.0)
    assert {int(data[epoch, row].replaced) for epoch in range(20) for row in (3, 4)} == {0}


def test_draws_depend_on_seed_epoch_and_row_alone(root, tokenizer):
    data, again = train_set(root, tokenizer), train_set(root, tokenizer, cache=True)
    other_seed = train_set(root, tokenizer, seed=4)

    def draws(data, epoch):
        samples = [data[epoch, row] for row in range(3)]
        return torch.stack([torch.stack([sample.image_1, sample.image_2]) for sample in samples])

    data[5, 2]  # asking before changes nothing
    sixteen = [draws(data, epoch) for epoch in range(16)]
    assert all(torch.equal(draws(again, epoch), drawn) for epoch, drawn in enumerate(sixteen))
    assert not all(torch.equal(draws(other_seed, epoch), drawn) for epoch, drawn in enumerate(sixteen))
    assert not all(torch.equal(sixteen[0], drawn) for drawn in sixteen)


def test_attribute_ids_follow_the_words(root, tokenizer):
    data = train_set(root, tokenizer)
    (row,) = (r for r in range(5) if "shoes" in text_of(tokenizer, data[0, r].text_1))
    text = data[0, row].text_1
    words = tokenizer.convert_ids_to_tokens(text.input_ids.tolist())
    found = [(word, number) for word, number in zip(words, text.attribute_ids.tolist(), strict=True) if number]
    assert found == [("red", 1), ("shoes", 1), ("short", 2), ("hair", 2)]
    assert text.attention_mask.tolist() == [1] * len(words)


def test_caption_without_chunks_or_words(root, tokenizer):
    records = [Record(1, "a.png", ("...", "walking"))]
    data = train_set(root, tokenizer, records)
    assert data[0, 0].text_1.input_ids.tolist() == [101]
    assert data[0, 1].text_1.attribute_ids.tolist() == [0, 0]


def test_max_words_cuts_words_and_then_tokens_in_training_and_evaluation(root, tokenizer):
    records = [Record(1, "a.png", ("khaki khaki man black coat",))]
    trained = train_set(root, tokenizer, records, max_words=4)[0, 0].text_1.input_ids.tolist()
    assert trained == encode(tokenizer, "khaki khaki man black", 4).ids
    assert len(trained) == 4
    evaluated = eval_sets(root, tokenizer, records, max_words=4).captions[0].text.input_ids.tolist()
    assert evaluated == trained


def test_encoded_captions_keep_each_caption(tokenizer):
    texts = ["a man", "", "a khaki hoodie"]
    encoded = encode_captions(texts, [[], [], [[(2, 7)]]], tokenizer, 90)
    for number, text in enumerate(texts):
        assert encoded.tokens(number).input_ids.tolist() == encode(tokenizer, text, 90).ids
    assert encoded.tokens(2).attribute_ids.tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert encoded.tokens(2).attribute_ids.dtype == torch.int64


def test_pairs_and_captions_of_people_as_published(tmp_path, tokenizer):
    published = json.loads((CUHK / "datasets.json").read_text())
    entries = json.loads((CUHK / "processed_data/train.json").read_text())
    records = [Record(entry["id"], entry["file_path"], tuple(entry["captions"])) for entry in entries]
    make_images(tmp_path, records)
    data = train_set(tmp_path, tokenizer, records, weak_positive_probability=1.0)

    def cleaned(captions):
        return sorted(clean_caption(caption, 90) for caption in captions)

    assert len(data) == published["train"]["len"]
    labels = list(dict.fromkeys(record.person_id for record in sorted(records, key=lambda r: r.person_id)))
    assert labels == list(dict.fromkeys(record.person_id for record in records))  # published: order of appearance
    for person, captions in published["train"]["person2text"].items():
        rows = np.flatnonzero(data.rows.person == int(person))
        assert sorted(text_of(tokenizer, data[0, row].text_1) for row in rows) == cleaned(captions)
        drawn = {text_of(tokenizer, data[epoch, rows[0]].text_2) for epoch in range(60)}
        assert drawn == set(cleaned(captions))


def test_evaluation_sets_as_published(tmp_path, tokenizer):
    published = json.loads((CUHK / "datasets.json").read_text())["eval"]["test"]
    entries = json.loads((CUHK / "processed_data/test.json").read_text())
    records = [Record(int(entry["id"]), entry["file_path"], tuple(entry["captions"])) for entry in entries]
    make_images(tmp_path, records)
    gallery, captions = eval_sets(tmp_path, tokenizer, records, max_words=8)
    assert gallery.paths == published["image"]
    assert gallery.person_id.tolist() == published["img2person"]
    assert captions.texts == published["text"]
    assert captions.person_id.tolist() == published["txt2person"]
    assert torch.equal(gallery[1].image, pixels_of(tmp_path, gallery.paths[1]))
    assert gallery[2].person_id == published["img2person"][2]
    assert captions[0].text.input_ids.tolist() == encode(tokenizer, published["text"][0], 8).ids


def test_labels_do_not_shift_when_a_person_is_left_out(root, tokenizer):
    for path in ("a.png", "b.png"):
        (root / "imgs" / path).write_bytes(b"")
    data = train_set(root, tokenizer, cache=True, on_bad_image="skip")
    assert len(data) == 2
    assert data[0, 0].person_id == 1


def test_bad_image_in_the_middle_of_an_epoch_names_the_file(root, tokenizer):
    data = train_set(root, tokenizer)
    data[0, 2]
    (root / "imgs" / "b.png").write_bytes(b"<html>")
    with pytest.raises(BadImage, match=r"imgs/b\.png"):
        data[0, 2]


def test_bad_image_is_replaced_by_the_next_row_with_one_warning(root, tokenizer, caplog):
    data = train_set(root, tokenizer, on_bad_image="skip")
    (root / "imgs" / "b.png").write_bytes(b"<html>")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        sample, expected = data[4, 2], data[4, 3]
        data[5, 2]
    assert torch.equal(sample.text_1.input_ids, expected.text_1.input_ids)
    assert torch.equal(sample.image_1, expected.image_1)
    assert len(caplog.records) == 1
    assert "imgs/b.png" in caplog.text


def test_no_image_can_be_read(root, tokenizer):
    for record in RECORDS:
        (root / "imgs" / record.file_path).unlink()
    with pytest.raises(BadImage, match="no image of the training set"):
        train_set(root, tokenizer, on_bad_image="skip")[0, 0]
    with pytest.raises(ValueError, match="none of their images"):
        train_set(root, tokenizer, on_bad_image="skip", cache=True)
    with pytest.raises(ValueError, match="none of their images"):
        eval_sets(root, tokenizer, on_bad_image="skip")
    with pytest.raises(BadImage, match=r"a\.png: no such file"):
        train_set(root, tokenizer, cache=True)


@pytest.mark.parametrize("cache", [True, False])
def test_gallery_leaves_bad_images_and_their_captions_out(root, tokenizer, cache, caplog):
    (root / "imgs" / "a.png").unlink()
    gallery, captions = eval_sets(root, tokenizer, cache=cache, on_bad_image="skip")
    assert gallery.paths == ["c.png", "b.png"]
    assert gallery.person_id.tolist() == [30, 7]
    assert captions.person_id.tolist() == [30, 30, 7]
    assert torch.equal(gallery[1].image, pixels_of(root, "b.png"))
    assert "a.png: no such file" in caplog.text


def test_cached_and_decoded_samples_are_equal(root, tokenizer):
    cached, decoded = train_set(root, tokenizer, cache=True), train_set(root, tokenizer)
    for row in range(5):
        assert torch.equal(cached[0, row].image_2, decoded[0, row].image_2)


@pytest.mark.parametrize("cache", [True, False])
def test_a_batch_is_what_collate_makes_of_its_samples(root, tokenizer, cache):
    data = train_set(root, tokenizer, cache=cache)
    for epoch in range(8):
        places = [(epoch, row) for row in (3, 0, 4, 1, 1)]
        batch, expected = data.__getitems__(places), collate([data[place] for place in places])
        torch.testing.assert_close(batch, expected, rtol=0, atol=0)
        assert collate(batch) is batch
