"""ERNIE 1.0 base as released: BERT-base's shape with ReLU, 18,000 rows, 513 positions.

Paper: Sun et al. 2019 (arXiv 1904.09223); code PaddlePaddle/ERNIE before July 2019:
Adam with bias correction, rate 1e-4, warm-up 5000 with BERT's kink, decay .01, clipping
at 1, dropout .1, every unit masked with probability .15. The lexer that found its
phrases and entities was not released, and the shares of its levels are not known: here
a third each. Its 8192 tokens a GPU in rows of 512 are 512 rows of 128 here, the length
that the released weights were trained on (README.zh of its branch repro).
Cost: 3.6 × 10^19 FLOP; about a day on one H200 at half of its matmul rate.

    jaxlm prepare  ernie1 --text zh.txt --tokenizer vocab.txt --spans rjieba --corpus zh
    jaxlm pretrain ernie1 --corpus zh --workdir runs/ernie
"""

from jaxlm.config import MaskedData, OptimConfig, RunConfig, TextConfig, bert


def get_config() -> RunConfig:
    return RunConfig(
        model=bert(
            "base",
            vocab_size=18_000,
            max_length=513,
            activation="relu",
            norm_eps=1e-5,
        ),
        text=TextConfig(language="zh", unused=36),
        data=MaskedData(levels=(1 / 3, 1 / 3, 1 / 3), choice="each"),
        optim=OptimConfig(
            name="adamw", peak=1e-4, warmup=5000, decay="linear_kinked", eps=1e-8
        ),
        steps=1_000_000,
        batch=512,
        length=128,
        predictions=32,
        save_every=5000,
        keep_every=100_000,
        eval_every=5000,
    )
