"""BERT-base as one would train it today: masked words only, fresh masks, bf16.

After MosaicBERT (Portes et al. 2023, arXiv 2312.17482): rows of 128 tokens, no next-
sentence prediction, 30 % of the tokens masked, no dropout, AdamW with bias correction,
4096 rows, 70k steps, peak 5e-4. Its changes of architecture (ALiBi, gated units,
unpadding) are left out: the model stays a BERT that every tool loads.
Cost: 2.1 × 10^19 FLOP; about 13 hours on one H200 at half of its matmul rate.

    jaxlm prepare  bert_base_modern --text 'wiki/*.txt' --corpus corpora/wiki
    jaxlm pretrain bert_base_modern --corpus corpora/wiki --workdir runs/base
"""

from jaxlm.config import MaskedData, OptimConfig, RunConfig, bert


def get_config() -> RunConfig:
    return RunConfig(
        model=bert("base", nsp=False, dropout=0.0, activation="gelu_tanh"),
        data=MaskedData(mask_rate=0.3, whole_words=True),
        optim=OptimConfig(
            name="adamw", peak=5e-4, warmup=4200, b2=0.98, weight_decay=0.01
        ),
        steps=70_000,
        batch=4096,
        length=128,
        predictions=40,
        precision="bfloat16",
        save_every=1000,
        keep_every=10_000,
        eval_every=1000,
        eval_rows=8192,
    )
