"""BERT-large as one would train it today: `bert_base_modern` with LAMB.

You et al. 2020 (arXiv 1904.00962): LAMB keeps BERT-large stable at large batches.
Cost: 7.1 × 10^19 FLOP; about 2 days on one H200 at half of its matmul rate.

    jaxlm prepare  bert_large_modern --text 'wiki/*.txt' --corpus corpora/wiki
    jaxlm pretrain bert_large_modern --corpus corpora/wiki --workdir runs/large
"""

import dataclasses

from jaxlm.config import OptimConfig, RunConfig, bert, load_config


def get_config() -> RunConfig:
    return dataclasses.replace(
        load_config("bert_base_modern"),
        model=bert("large", nsp=False, dropout=0.0, activation="gelu_tanh"),
        optim=OptimConfig(name="lamb", peak=2e-3, warmup=4200),
        remat="dots",
    )
