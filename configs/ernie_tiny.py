"""ERNIE 1.0 for a laptop: 2 layers, 128 wide, phrases and entities masked whole.

Paper: Sun et al. 2019 (arXiv 1904.09223). ReLU, norm and masks are the release's, each
level in a third of the rows (the paper does not give the shares); size, rate and
initialisation are those of bert_tiny.
Cost: half an hour on one CPU core.

    jaxlm prepare  ernie_tiny --text 'zh/*.txt' --spans rjieba --corpus corpora/zh
    jaxlm pretrain ernie_tiny --corpus corpora/zh --workdir runs/ernie
"""

from jaxlm.config import MaskedData, OptimConfig, RunConfig, TextConfig, bert


def get_config() -> RunConfig:
    return RunConfig(
        model=bert(
            "tiny",
            vocab_size=6000,
            max_length=64,
            dropout=0.0,
            init_std=0.09,
            activation="relu",
            norm_eps=1e-5,
        ),
        text=TextConfig(language="zh"),
        data=MaskedData(levels=(1 / 3, 1 / 3, 1 / 3), choice="each"),
        optim=OptimConfig(name="adamw", peak=1.5e-3, warmup=500, decay="linear"),
        steps=10_000,
        batch=32,
        length=64,
        predictions=16,
        save_every=1000,
        eval_every=500,
        eval_rows=2048,
    )
