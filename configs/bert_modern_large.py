"""ModernBERT-large, 395M parameters: `bert_modern_base` in the published larger shape.

Paper: Warner et al. 2024 (arXiv 2412.13663): 28 layers, 1,024 wide, MLP of 2,624, peak
5e-4 after a warm-up over 2 × 10^9 tokens, batches of 4,928 rows, 0.9 × 10^12 tokens.
The published run went on for 0.8 × 10^12 tokens at 5e-5, as the loss stood still:
`--fork runs/large@STEP --optim.peak 5e-5`.
Cost: 2.1 × 10^21 FLOP; made for 256 chips, where batches are 4,864 rows (19 a chip).

    jaxlm prepare  bert_modern_large --text 'web/*.txt' --corpus corpora/web
    jaxlm pretrain bert_modern_large --corpus corpora/web --workdir runs/large
"""

import dataclasses

from jaxlm.config import RunConfig, load_config, modernbert


def get_config() -> RunConfig:
    base = load_config("bert_modern_base")
    return dataclasses.replace(
        base,
        model=modernbert(
            "large",
            vocab_size=50_368,
            max_length=1024,
            num_layers=28,
            d_ff=2624,
            window=128,
        ),
        optim=dataclasses.replace(base.optim, peak=5e-4, warmup=400),
        steps=181_000,
        batch=4864,
    )
