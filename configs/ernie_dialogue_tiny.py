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

from dataclasses import replace

from jaxlm.config import RunConfig, load_config


def get_config() -> RunConfig:
    ernie = load_config("ernie_tiny")
    return replace(ernie, text=replace(ernie.text, dialogues=True))
