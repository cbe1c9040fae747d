"""GPT-2 in plain torch, as a reader of nanoGPT would write it: the peer of a step.

Fused attention (`scaled_dot_product_attention`, causal), tanh GELU, tied head, all
logits at once. `load` takes our weights by transformers' names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxlm.config import GptConfig
from tools.goldens_gpt import tensors


class Attention(nn.Module):
    def __init__(self, config: GptConfig):
        super().__init__()
        self.heads, self.dropout = config.num_heads, config.dropout
        self.c_attn = nn.Linear(config.d_model, 3 * config.d_model)
        self.c_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x):
        rows, length, width = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        dropout = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True
        )
        return self.c_proj(y.transpose(1, 2).reshape(rows, length, width))


class Mlp(nn.Module):
    def __init__(self, config: GptConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.d_model, config.d_ff)
        self.c_proj = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x):
        return self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: GptConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.d_model, config.norm_eps)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.d_model, config.norm_eps)
        self.mlp = Mlp(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x):
        x = x + self.drop(self.attn(self.ln_1(x)))
        return x + self.drop(self.mlp(self.ln_2(x)))


class NanoGpt(nn.Module):
    def __init__(self, config: GptConfig):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.wpe = nn.Embedding(config.max_length, config.d_model)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.d_model, config.norm_eps)

    def forward(self, tokens, targets):
        positions = torch.arange(tokens.shape[1])
        x = self.drop(self.wte(tokens) + self.wpe(positions))
        for block in self.h:
            x = block(x)
        logits = functional.linear(self.ln_f(x), self.wte.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def load(config: GptConfig, params: Any) -> NanoGpt:
    """With weights of ours."""
    model = NanoGpt(config)
    theirs = dict(model.named_parameters())
    for name, array in tensors(config, params).items():
        # transformers has kernels as inputs × outputs, `nn.Linear` the other way.
        name = name.removeprefix("transformer.")
        linear = name.endswith(".weight") and ".c_" in name
        array = np.ascontiguousarray(array.T if linear else array)
        theirs.pop(name).data = torch.from_numpy(array.copy())
    assert not theirs, f"without weights: {sorted(theirs)}"
    return model
