"""ModernBERT for a laptop: `bert_tiny`'s size, rows of 64 tokens, no sentence pairs.

Paper: Warner et al. 2024 (arXiv 2412.13663) for the layout: rotary positions, norms
before attention and MLP, GeGLU, no biases and no token types. All layers are global,
as rows are shorter than ModernBERT's window. The MLP has three matrices of 384 where
`bert_tiny` has two of 512. Muon is ours (`jaxlm help results`).
Cost: 4M tokens, 3 minutes of CPU time.

    jaxlm prepare  bert_modern_tiny --text 'books/*.txt' --corpus corpora/books
    jaxlm pretrain bert_modern_tiny --corpus corpora/books --workdir runs/modern
"""

from jaxlm.config import OptimConfig, RunConfig, modernbert


def get_config() -> RunConfig:
    return RunConfig(
        model=modernbert(
            "tiny",
            vocab_size=8192,
            max_length=64,
            d_ff=384,
            init_std=0.09,
        ),
        optim=OptimConfig(
            name="muon", peak=1e-2, warmup=100, b2=0.95, weight_decay=0.1
        ),
        steps=2000,
        batch=32,
        length=64,
        predictions=10,
        save_every=500,
        eval_every=250,
        eval_rows=2048,
    )
