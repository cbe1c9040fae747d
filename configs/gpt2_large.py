"""GPT-2 774M: 36 layers, 1280 wide, as one would train it today.

Paper: as gpt2_small, whose recipe this is, at GPT-3's rate for this size (Brown et al.
2020, table 2.1).
Cost: 1.5 × 10^21 FLOP; 1,078 hours on one H200 at half of its matmul rate.

    jaxlm prepare  gpt2_large --text 'web/*.jsonl' --tokenizer gpt2/ --corpus c/web
    jaxlm pretrain gpt2_large --corpus c/web --workdir runs/gpt2
"""

from dataclasses import replace

from jaxlm.config import RunConfig, gpt2, load_config


def get_config() -> RunConfig:
    small = load_config("gpt2_small")
    return replace(
        small,
        model=gpt2("large", dropout=0.0),
        optim=replace(small.optim, peak=2.5e-4),
    )
