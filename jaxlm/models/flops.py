"""Config and row shape → the arithmetic of a step, for MFU and for planning.

Matrix products only, a multiplication and an addition each, without recomputation:
compilers also count element-wise work, and a scanned layer once.
"""

from __future__ import annotations

from jaxlm.config.model import BertConfig, ElmoConfig, GptConfig


def bert_forward_flops(config: BertConfig, *, length: int, predictions: int) -> int:
    """Of one row through encoder, pooler and both heads.

    Args:
        config: of the model.
        length: L, all of it, padding too; attention is full.
        predictions: P, the positions that the MLM head scores.
    """
    d, f = config.d_model, config.d_ff
    token = config.num_layers * (4 * d * d + 2 * d * f + 2 * d * length)
    row = length * token + predictions * (d * d + d * config.vocab_size)
    if config.nsp:
        row += d * d + 2 * d
    return 2 * row


def bert_train_flops(
    config: BertConfig, *, batch: int, length: int, predictions: int
) -> int:
    """Of one update on `batch` rows: the backward pass costs two forward ones."""
    row = bert_forward_flops(config, length=length, predictions=predictions)
    return 3 * batch * row


def gpt_forward_flops(
    config: GptConfig, *, length: int, predictions: int | None = None
) -> int:
    """Of one row through decoder and head.

    Args:
        config: of the model.
        length: L; attention is counted in full, as it is computed, not its causal half.
        predictions: positions that are scored; None: all.
    """
    d, f = config.d_model, config.d_ff
    token = config.num_layers * (4 * d * d + 2 * d * f + 2 * d * length)
    scored = length if predictions is None else predictions
    return 2 * (length * token + scored * d * config.vocab_size)


def elmo_forward_flops(config: ElmoConfig, *, length: int, classes: int) -> int:
    """Of one row through characters, both directions and the softmax of each.

    Args:
        config: of the model.
        length: L; the characters of each of the L words are read once.
        classes: words that a position is scored against: all, or a sample.
    """
    d, f, filters = config.d_model, config.d_ff, sum(config.filters)
    word = 2 * config.num_highways * filters**2 + filters * d * (filters != d)
    for width, number in enumerate(config.filters, start=1):
        places = config.max_characters - width + 1
        word += places * width * config.d_character * number
    layer = 2 * d * 4 * f + f * d
    return 2 * length * (word + 2 * (config.num_layers * layer + d * classes))
