"""Scores of a sentence and its chunks, against plain loops."""

import torch

from gallery.encoding.chunks import chunks_of, no_chunks
from gallery.encoding.encoder import Encoder
from tests.helpers.saved_models import save_random_model


def test_chunk_probabilities_are_those_of_training(debug_config, tmp_path):
    config = debug_config()
    encoder = Encoder(save_random_model(config, tmp_path / "best.pth", seed=3), config, torch.device("cpu"))
    pixels = torch.randint(256, (2, 3, *encoder.image_size), dtype=torch.uint8)
    tokens = encoder.images(pixels).tokens
    sentence = encoder.sentence("a man with a red backpack and black leather shoes")
    chunks = chunks_of(sentence.text, sentence.encoded)
    matching = encoder.match(sentence, chunks, tokens)
    model, ids = encoder.model, torch.tensor([sentence.encoded.ids] * 2)
    with torch.no_grad():
        hidden = model.text_encoder.cross_modal(ids, torch.ones_like(ids), tokens)
        torch.testing.assert_close(matching.scores, model.match(ids, torch.ones_like(ids), tokens))
        for number in (1, 2):
            own = [place for place, chunk in enumerate(chunks.ids) if chunk == number]
            expected = model.itm_head(hidden[:, own].mean(dim=1)).softmax(dim=-1)[:, 1]
            torch.testing.assert_close(matching.chunks[:, number - 1], expected)
    assert matching.chunks.shape == (2, 2)
    assert encoder.match(sentence, no_chunks(sentence.encoded), tokens).chunks.shape == (2, 0)
