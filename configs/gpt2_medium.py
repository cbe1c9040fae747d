"""GPT-2 355M: 24 layers, 1024 wide, as one would train it today.

Paper: Radford et al. 2019 for the architecture and its initialisation; rates and
dropout were never published. The recipe is nanoGPT's (karpathy/nanoGPT 3adf61e): AdamW
.9/.95 with decay .1, 480 rows of 1,024 tokens, no dropout, bf16, 600k steps,
with GPT-3's rate for this size (Brown et al. 2020, table 2.1).
Cost: 7.1 × 10^20 FLOP; 502 hours of one H200 at half of its matmul rate.

    jaxlm prepare  gpt2_medium --text 'web/*.jsonl' --tokenizer gpt2/ --corpus c/web
    jaxlm pretrain gpt2_medium --corpus c/web --workdir runs/gpt2
"""

from jaxlm.config import OptimConfig, RunConfig, TextConfig, gpt2


def get_config() -> RunConfig:
    return RunConfig(
        model=gpt2("medium", dropout=0.0),
        text=TextConfig(tokenizer="byte_bpe", lowercase=False, verbatim=True),
        optim=OptimConfig(
            name="adamw",
            peak=3e-4,
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
