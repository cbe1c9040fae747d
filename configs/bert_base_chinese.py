"""BERT-base for Chinese as published: `bert_base` over characters, 21,128 entries.

Published: google-research/bert, README; the recipe is that of BERT-base (paper: Devlin
et al. 2018, arXiv 1810.04805). Simplified and traditional Wikipedia unconverted, each
ideograph a token, lower-cased.
Cost: 2.4 × 10^19 FLOP; 16 hours on one H200 at half of its matmul rate.

    jaxlm prepare  bert_base_chinese --text 'zh/*.txt' --tokenizer vocab.txt --corpus zh
    jaxlm pretrain bert_base_chinese --corpus zh --workdir runs/chinese
"""

import dataclasses

from jaxlm.config import RunConfig, TextConfig, bert, load_config


def get_config() -> RunConfig:
    return dataclasses.replace(
        load_config("bert_base"),
        model=bert("base", vocab_size=21_128),
        text=TextConfig(language="zh"),
    )
