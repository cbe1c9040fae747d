"""ELMo for a laptop: two layers of 512 cells, 128 wide in each direction.

Paper: Peters et al. 2018 (arXiv 1802.05365) for the architecture; size, optimiser and
rate are ours.
Cost: an hour on one CPU core.

    jaxlm pretrain elmo_tiny --text 'books/*.txt' --workdir runs/elmo
    jaxlm embed runs/elmo --text sentences.txt --out vectors.h5 --layers all
"""

from jaxlm.config import OptimConfig, RunConfig, TextConfig, elmo


def get_config() -> RunConfig:
    return RunConfig(
        model=elmo("tiny", vocab_size=8192, dropout=0.0),
        text=TextConfig(tokenizer="words", lowercase=False),
        optim=OptimConfig(
            name="adamw", peak=2e-3, warmup=200, decay="cosine", weight_decay=0.01
        ),
        steps=6000,
        batch=32,
        length=20,
        save_every=1000,
        eval_every=500,
        eval_rows=1024,
    )
