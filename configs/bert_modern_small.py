"""ModernBERT for one's own machine: 4 layers, 256 wide, rows of 128 tokens, 10M words.

Paper: Warner et al. 2024 (arXiv 2412.13663) for the layout and the share of masked
tokens; the size is ours, for text of about 10M words, as BabyLM's strict-small track
has (Charpentier et al. 2025, arXiv 2502.10645). It is read about ten times.
Cost: 131M tokens, 8 to 9 hours on two cores (by the time of 40 steps).

    jaxlm prepare  bert_modern_small --text 'books/*.txt' --corpus corpora/books
    jaxlm pretrain bert_modern_small --corpus corpora/books --workdir runs/small
"""

from jaxlm.config import MaskedData, OptimConfig, RunConfig, modernbert


def get_config() -> RunConfig:
    return RunConfig(
        model=modernbert(
            "mini",
            vocab_size=8192,
            max_length=128,
            d_ff=768,
            init_std=0.0625,
        ),
        data=MaskedData(mask_rate=0.3, whole_words=True),
        optim=OptimConfig(
            name="adamw", peak=2e-3, warmup=500, b2=0.98, weight_decay=0.01
        ),
        steps=16_000,
        batch=64,
        length=128,
        predictions=39,
        save_every=1000,
        eval_every=1000,
        eval_rows=2048,
    )
