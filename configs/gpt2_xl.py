"""GPT-2 1558M: 48 layers, 1600 wide, as one would train it today.

Paper: as gpt2_small, whose recipe this is, at GPT-3's rate for this size (Brown et al.
2020, table 2.1).
Cost: 3.0 × 10^21 FLOP; 2,131 hours on one H200 at half of its matmul rate.

    jaxlm prepare  gpt2_xl --text 'web/*.jsonl' --tokenizer gpt2/ --corpus c/web
    jaxlm pretrain gpt2_xl --corpus c/web --workdir runs/gpt2
"""

from dataclasses import replace

from jaxlm.config import RunConfig, gpt2, load_config


def get_config() -> RunConfig:
    small = load_config("gpt2_small")
    return replace(
        small,
        model=gpt2("xl", dropout=0.0),
        optim=replace(small.optim, peak=2e-4),
    )
