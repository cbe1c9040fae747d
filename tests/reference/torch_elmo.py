"""ELMo in plain torch, a row and a word at a time: what `models/elmo.py` must equal.

Takes our parameters and config. No batch, no mask, no padding: a row is exactly its
words, and the backward direction reads them from its end.
"""

import torch
from torch.nn import functional


def word(config, p, characters):
    """[words, C] → [words, D]."""
    table = torch.cat([torch.zeros(1, config.d_character), p["embed"]["table"]])
    x = table[characters].transpose(1, 2)
    pooled = []
    for width, number in enumerate(config.filters, start=1):
        if number:
            each = p[f"filters_{width}"]
            conv = functional.conv1d(x, each["kernel"].permute(2, 1, 0), each["bias"])
            pooled.append(conv.max(dim=2).values)
    x = {"relu": torch.relu, "tanh": torch.tanh}[config.activation](
        torch.cat(pooled, 1)
    )
    for n in range(config.num_highways):
        carry, transform = (
            x @ p["highways"][gate]["kernel"][n] + p["highways"][gate]["bias"][n]
            for gate in ("carry", "transform")
        )
        carry = torch.sigmoid(carry)
        x = carry * torch.relu(transform) + (1 - carry) * x
    if "projection" in p:
        x = x @ p["projection"]["kernel"] + p["projection"]["bias"]
    return x


def clamp(x, bound):
    return x.clamp(-bound, bound) if bound else x


def cells(config, p, n, direction, x, state):
    """[words, D] → the same, and the state after the last word."""
    kernel = p["kernel"][n, direction].flatten(1)
    bias = p["bias"][n, direction].flatten()
    cell, out = state
    outs = []
    for each in x:
        i, j, f, o = (torch.cat([each, out]) @ kernel + bias).chunk(4)
        cell = torch.sigmoid(f + 1) * cell + torch.sigmoid(i) * torch.tanh(j)
        cell = clamp(cell, config.cell_clip)
        out = torch.sigmoid(o) * torch.tanh(cell) @ p["projection"][n, direction]
        out = clamp(out, config.proj_clip)
        outs.append(out)
    return torch.stack(outs) if outs else x, (cell, out)


def row(config, params, characters, states):
    """(hidden [N + 1, words, 2 D], logits [2, words, V], states) of one text.

    `states[n][direction]` is the (cell, out) of a layer before the text.
    """
    x = word(config, params["words"], characters)
    hidden, logits, after = [torch.cat([x, x], 1)], [], [[], []]
    directions = []
    for direction in range(2):
        h, layers = x.flip(0) if direction else x, []
        for n in range(config.num_layers):
            state = states[n][direction]
            y, state = cells(config, params["layers"], n, direction, h, state)
            h = y + h if config.skip and n > 0 else y
            after[direction].append(state)
            layers.append(h.flip(0) if direction else h)
        directions.append(layers)
        head = params["softmax"]
        scores = layers[-1] @ head["table"].T + head["bias"]
        logits.append(scores[:, : config.vocab_size])
    hidden += [torch.cat(both, 1) for both in zip(*directions, strict=True)]
    return torch.stack(hidden), torch.stack(logits), after
