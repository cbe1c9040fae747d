"""BERT-tiny for a laptop: 2 layers, 128 wide, rows of 64 tokens.

Paper: Turc et al. 2019 (arXiv 1908.08962) for the size, Devlin et al. 2018 for the
rest. Rows are short, and weights start at 1 / sqrt(width); BERT's .02 is for a width of
768. Both shorten the first plateau, on which a small BERT knows which words are
frequent but not which word belongs where (3M tokens here; jaxlm help
results).
Cost: an hour on one CPU core.

    jaxlm prepare  bert_tiny --text 'books/*.txt' --corpus corpora/books
    jaxlm pretrain bert_tiny --corpus corpora/books --workdir runs/tiny
"""

from jaxlm.config import OptimConfig, RunConfig, bert


def get_config() -> RunConfig:
    return RunConfig(
        model=bert("tiny", vocab_size=8192, max_length=64, dropout=0.0, init_std=0.09),
        optim=OptimConfig(name="adamw", peak=1.5e-3, warmup=500, decay="linear"),
        steps=20_000,
        batch=32,
        length=64,
        predictions=10,
        save_every=1000,
        eval_every=500,
        eval_rows=2048,
    )
