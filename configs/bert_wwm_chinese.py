"""BERT-wwm: BERT-base for Chinese, trained further with whole words masked.

Paper: Cui et al. 2019 (arXiv 1906.08101), code ymcui/Chinese-BERT-wwm: from the weights
of BERT-base Chinese, LAMB, 100k steps of 2560 rows of 128 and 100k of 384 rows of 512.
Tokens are still characters; words only decide what is masked together. LTP found the
paper's words, --spans finds them here. Rate and warm-up are BERT-base's ("without
changing any … hyper-parameters").
Cost: 2.9 × 10^19 FLOP; 20 hours on one H200 at half of its matmul rate.

    jaxlm prepare  bert_wwm_chinese --text zh.txt --tokenizer vocab.txt --spans rjieba …
    jaxlm pretrain bert_wwm_chinese --corpus zh --init runs/chinese --workdir runs/wwm
"""

import dataclasses

from jaxlm.config import MaskedData, OptimConfig, Phase, RunConfig, load_config


def get_config() -> RunConfig:
    start = load_config("bert_base_chinese")
    return dataclasses.replace(
        start,
        data=MaskedData(whole_words=True),
        optim=OptimConfig(name="lamb", peak=1e-4, warmup=10_000),
        steps=200_000,
        phases=(
            Phase(until=100_000, length=128, batch=2560, predictions=20),
            Phase(until=200_000, length=512, batch=384, predictions=77),
        ),
    )
