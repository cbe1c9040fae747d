"""ELMo's architecture as one would train it today: AdamW, bfloat16, a larger batch.

Paper: Peters et al. 2018 (arXiv 1802.05365) for the architecture; optimiser, rate and
batch are ours and have not been run at this size.

AdamW is lazy: a step updates only the rows of the softmax that it reads, those of its
targets and of the sampled words, as torch's SparseAdam does. The moments of other rows
stay, and these rows neither move nor decay: AdamW would do both. `--optim.lazy false`
updates all rows: each step then reads and writes 11 GB for it, and devices exchange
1.6 GB of gradients.

Chips: 8, with 128 rows each; to fill more takes a larger batch.
Cost: at least 3 hours on 8 v5e chips: 71 ms a step in 5.1 GB a chip, 38 % of the
peak, by the compiled program; not measured.

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
