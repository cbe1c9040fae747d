"""ERNIE 1.0's dialogues (DLM) for a laptop: three turns a row, one of them replaced.

Paper: Sun et al. 2019 (arXiv 1904.09223), section 4.2: roles in place of sentence
types, rows QRQ, QRR or QQR, masked words as elsewhere, and dialogues that are real or
have a turn of another. The docstring of jaxlm/objectives/dialogue.py has the shares,
the truncation and whatever else the paper leaves open. Size, rate and masks are those
of ernie_tiny, from whose run this can start, with its vocabulary (--tokenizer
corpora/zh/tokenizer, --init runs/ernie).
Cost: half an hour on one CPU core.

    jaxlm prepare  ernie_dialogue_tiny --text chats.jsonl --spans rjieba --corpus c
    jaxlm pretrain ernie_dialogue_tiny --corpus c --workdir runs/chats
"""

from dataclasses import replace

from jaxlm.config import RunConfig, load_config


def get_config() -> RunConfig:
    ernie = load_config("ernie_tiny")
    return replace(ernie, text=replace(ernie.text, dialogues=True))
