"""Config and row shape → the arithmetic of a step, for MFU and for planning.

Only matrix products count, a multiply and an add as two, without recomputation. (XLA's
own count has element-wise work too, and counts a scanned layer once.) A backward pass
costs as much as two forward passes.
"""

from jaxlm.config.model import BertConfig, ElmoConfig, GptConfig


def _layer_flops(config: BertConfig | GptConfig, length: int) -> int:
    """FLOP of all layers on one row; attention counts all pairs of positions, and in
    local layers those of a window."""
    d, f, layers = config.d_model, config.d_ff, config.num_layers
    products = 4 * d * d + (3 if config.gated else 2) * d * f
    near = min(length, config.window + 1)
    seen = layers * length - sum(config.local) * (length - near)
    return 2 * length * (layers * products + 2 * d * seen)


def bert_forward_flops(config: BertConfig, length: int, predictions: int) -> int:
    """FLOP of one row: encoder, pooler, NSP head, MLM head at `predictions` places."""
    d = config.d_model
    heads = predictions * (d * d + d * config.vocab_size)
    if config.nsp:
        heads += d * d + 2 * d
    return _layer_flops(config, length) + 2 * heads


def gpt_forward_flops(config: GptConfig, length: int, predictions: int) -> int:
    """FLOP of one row: the decoder, and the head at `predictions` positions."""
    head = 2 * predictions * config.d_model * config.vocab_size
    return _layer_flops(config, length) + head


def elmo_forward_flops(config: ElmoConfig, length: int, classes: int) -> int:
    """FLOP of one row of `length` words: the character CNN, both directions, and the
    softmax of each, over `classes` words."""
    d, f, filters = config.d_model, config.d_ff, sum(config.filters)
    word = 2 * config.num_highways * filters**2 + filters * d * (filters != d)
    for width, number in enumerate(config.filters, start=1):
        windows = config.max_characters - width + 1
        word += windows * width * config.d_character * number
    layer = 2 * d * 4 * f + f * d
    return 2 * length * (word + 2 * (config.num_layers * layer + d * classes))
