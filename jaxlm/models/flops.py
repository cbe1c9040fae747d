"""The arithmetic of a training step, counted from the shapes.

Forward and backward of every matrix product (3 × 2 FLOP a multiply-add), nothing that
is computed again, no attention that the mask throws away left out: full rows.
"""

from __future__ import annotations

from jaxlm.config import BertConfig, Phase


def step_flops(config: BertConfig, phase: Phase) -> float:
    """FLOP of one update: all positions through the layers, predictions through the
    head.

    Args:
        config: of the model.
        phase: rows of the global batch, their length, and predictions in each.
    """
    d, f, length = config.d_model, config.d_ff, phase.length
    block = 4 * d * d + 2 * d * f + 2 * length * d
    row = length * config.num_layers * block
    row += phase.predictions * (d * d + d * config.vocab_size)
    if config.nsp:
        row += d * d + 2 * d
    return 6.0 * phase.batch * row
