"""ELMo's architecture as one would train it today: AdamW, bfloat16, a larger batch.

Paper: Peters et al. 2018 (arXiv 1802.05365) for the architecture; optimiser, rate and
batch are ours and have not been run at this size.
Cost: not measured; `jaxlm show elmo_original_modern` prints the FLOPs.

    jaxlm pretrain elmo_original_modern --text '1b/*.txt' --workdir runs/elmo
"""

from jaxlm.config import BilmData, OptimConfig, RunConfig, TextConfig, elmo


def get_config() -> RunConfig:
    return RunConfig(
        model=elmo("original"),
        text=TextConfig(tokenizer="words", lowercase=False, words="space"),
        data=BilmData(negatives=8192),
        optim=OptimConfig(
            name="adamw",
            peak=1e-3,
            warmup=2000,
            decay="cosine",
            weight_decay=0.01,
            lazy=True,
        ),
        steps=150_000,
        batch=1024,
        length=50,
        save_every=1000,
        eval_every=5000,
        precision="bfloat16",
    )
