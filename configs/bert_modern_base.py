"""ModernBERT-base, 149M parameters, trained on rows of 1,024 tokens as published.

Paper: Warner et al. 2024 (arXiv 2412.13663): 22 layers of which every third is global
and the others see 128 tokens, 30 % of the tokens masked, peak 8e-4, batches of 4,608
rows, 1.7 × 10^12 tokens after a warm-up over 3 × 10^9. Differences: AdamW in place of
StableAdamW (the step is clipped at norm 1 instead), no warm-up of the batch, and your
own vocabulary unless you give one. The published run goes on from there with rows of
8,192 tokens and a base of 160,000 in global layers:

    jaxlm pretrain bert_modern_base --init runs/base --workdir runs/long \\
      --model.rope_base 160000 --model.max_length 8192 --length 8192 --batch 576 \\
      --predictions 2458 --steps 53000 --optim.peak 3e-4

Cost: 1.4 × 10^21 FLOP; made for 256 chips.

    jaxlm prepare  bert_modern_base --text 'web/*.txt' --corpus corpora/web
    jaxlm pretrain bert_modern_base --corpus corpora/web --workdir runs/base
"""

from jaxlm.config import MaskedData, OptimConfig, RunConfig, modernbert


def get_config() -> RunConfig:
    return RunConfig(
        model=modernbert(
            "base",
            vocab_size=50_368,
            max_length=1024,
            num_layers=22,
            d_ff=1152,
            window=128,
        ),
        data=MaskedData(mask_rate=0.3),
        optim=OptimConfig(
            name="adamw",
            peak=8e-4,
            warmup=640,
            decay="constant",
            b2=0.98,
            weight_decay=1e-5,
        ),
        steps=364_000,
        batch=4608,
        length=1024,
        predictions=308,
        precision="bfloat16",
        save_every=1000,
        keep_every=20_000,
        eval_every=5000,
        eval_rows=8192,
    )
