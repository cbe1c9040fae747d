"""BERT-large as published: `bert_base` with 24 layers, 1024 wide.

Paper: Devlin et al. 2018, section A.2; the recipe is that of BERT-base.
Cost: 9.0 × 10^19 FLOP: 4 days on 64 TPU v2 chips in 2018.

    jaxlm prepare  bert_large --text 'wiki/*.txt' --tokenizer vocab.txt --corpus c/w
    jaxlm pretrain bert_large --corpus c/w --workdir runs/large
"""

import dataclasses

from jaxlm.config import RunConfig, bert, load_config


def get_config() -> RunConfig:
    return dataclasses.replace(load_config("bert_base"), model=bert("large"))
