"""ERNIE 1.0's dialogues (DLM) on a laptop: three turns a row, one of them replaced.

Paper: Sun et al. 2019 (arXiv 1904.09223), section 4.2: roles in place of sentence
types, rows QRQ, QRR or QQR, words masked as elsewhere, dialogues real or with a turn of
another. Shares, truncation and what else the paper leaves open: the docstring of
jaxlm/transforms/dialogue.py. Size, rate and masks as in ernie_tiny, from which a run of
the same vocabulary can start (--tokenizer corpora/zh/tokenizer, --init runs/ernie).
Cost: half an hour on one CPU core.

    jaxlm prepare  ernie_dialogue_tiny --text chats.jsonl --spans rjieba --corpus c
    jaxlm pretrain ernie_dialogue_tiny --corpus c --workdir runs/chats
"""

from jaxlm.config import DataConfig, OptimConfig, RunConfig, TextConfig, bert


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
        text=TextConfig(language="zh", dialogues=True),
        data=DataConfig(levels=(1 / 3, 1 / 3, 1 / 3), choice="each"),
        optim=OptimConfig(name="adamw", peak=1.5e-3, warmup=500, decay="linear"),
        steps=10_000,
        batch=32,
        length=64,
        predictions=16,
        save_every=1000,
        eval_every=500,
        eval_rows=2048,
    )
