"""GPT-2 for a laptop: 4 layers, 128 wide.

Paper: Radford et al. 2019 for the architecture; size, rate and dropout are ours.
Cost: an hour on 2 CPU cores.

    jaxlm pretrain gpt2_tiny --text 'books/*.txt' --workdir runs/gpt
    jaxlm generate runs/gpt --prompt "It was a dark"
"""

from jaxlm.config import OptimConfig, RunConfig, TextConfig, gpt2


def get_config() -> RunConfig:
    return RunConfig(
        model=gpt2("tiny", vocab_size=8192, max_length=256, dropout=0.0),
        text=TextConfig(tokenizer="byte_bpe", lowercase=False, verbatim=True),
        optim=OptimConfig(
            name="adamw", peak=3e-3, warmup=200, decay="cosine", weight_decay=0.1
        ),
        steps=7000,
        batch=16,
        length=128,
        save_every=1000,
        eval_every=500,
        eval_rows=512,
    )
