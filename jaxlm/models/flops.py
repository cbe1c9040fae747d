"""Config and row shape → the arithmetic of a step, for MFU and for planning.

Matrix products only, a multiplication and an addition each, without recomputation:
compilers also count element-wise work, and a scanned layer once. A backward pass costs
two forward ones.
"""

from jaxlm.config.model import BertConfig, ElmoConfig, GptConfig


def _layer_flops(config: BertConfig | GptConfig, length: int) -> int:
    """All layers on one row. Attention is counted in full, padding and future too."""
    d, f = config.d_model, config.d_ff
    return 2 * length * config.num_layers * (4 * d * d + 2 * d * f + 2 * d * length)


def bert_forward_flops(config: BertConfig, length: int, predictions: int) -> int:
    """One row through encoder, pooler and both heads, MLM's at `predictions`."""
    d = config.d_model
    heads = predictions * (d * d + d * config.vocab_size)
    if config.nsp:
        heads += d * d + 2 * d
    return _layer_flops(config, length) + 2 * heads


def gpt_forward_flops(config: GptConfig, length: int, predictions: int) -> int:
    """One row through decoder and, at `predictions` positions, the head."""
    head = 2 * predictions * config.d_model * config.vocab_size
    return _layer_flops(config, length) + head


def elmo_forward_flops(config: ElmoConfig, length: int, classes: int) -> int:
    """One row of `length` words through characters, both directions and the softmax of
    each, which scores `classes` words: all, or a sample."""
    d, f, filters = config.d_model, config.d_ff, sum(config.filters)
    word = 2 * config.num_highways * filters**2 + filters * d * (filters != d)
    for width, number in enumerate(config.filters, start=1):
        windows = config.max_characters - width + 1
        word += windows * width * config.d_character * number
    layer = 2 * d * 4 * f + f * d
    return 2 * length * (word + 2 * (config.num_layers * layer + d * classes))
