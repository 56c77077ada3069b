"""The sizes of one BERT."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BertSizes:
    """Sizes of one BERT, named as in a Hugging Face config."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
