"""GPT-2 124M: 12 layers, 768 wide, as one would train it today.

Paper: Radford et al. 2019 for the architecture and its initialisation; rates and
dropout were never published. The recipe is nanoGPT's (karpathy/nanoGPT 3adf61e): AdamW
.9/.95 with decay .1, 480 rows of 1,024 tokens, no dropout, bf16, 600k steps.
Cost: 2.5 × 10^20 FLOP; 177 hours on one H200 at half of its matmul rate.

    jaxlm prepare  gpt2_small --text 'web/*.jsonl' --tokenizer gpt2/ --corpus c/web
    jaxlm pretrain gpt2_small --corpus c/web --workdir runs/gpt2
"""

from jaxlm.config import OptimConfig, RunConfig, TextConfig, gpt2


def get_config() -> RunConfig:
    return RunConfig(
        model=gpt2("small", dropout=0.0),
        text=TextConfig(tokenizer="byte_bpe", lowercase=False, verbatim=True),
        optim=OptimConfig(
            name="adamw",
            peak=6e-4,
            warmup=2000,
            decay="cosine",
            weight_decay=0.1,
            b2=0.95,
            eps=1e-8,
        ),
        steps=600_000,
        batch=480,
        length=1024,
        precision="bfloat16",
        save_every=2000,
        keep_every=50_000,
        eval_every=2000,
        eval_rows=4096,
    )
