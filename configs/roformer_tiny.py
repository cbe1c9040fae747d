"""RoFormer for a laptop: `bert_tiny` with rotary positions in place of its table.

Paper: Su et al. 2021 (arXiv 2104.09864) for the positions, Turc et al. 2019 for the
size. Nothing else differs from `bert_tiny` but the learning rate. The plateau on which
a small BERT knows frequent words only lasts a tenth as long.
Cost: 4M tokens, 3 minutes of CPU time.

    jaxlm prepare  roformer_tiny --text 'books/*.txt' --corpus corpora/books
    jaxlm pretrain roformer_tiny --corpus corpora/books --workdir runs/roformer
"""

from jaxlm.config import OptimConfig, RunConfig, bert


def get_config() -> RunConfig:
    return RunConfig(
        model=bert(
            "tiny",
            vocab_size=8192,
            max_length=64,
            positions="rope",
            dropout=0.0,
            init_std=0.09,
        ),
        optim=OptimConfig(name="adamw", peak=3e-3, warmup=50, decay="linear"),
        steps=2000,
        batch=32,
        length=64,
        predictions=10,
        save_every=500,
        eval_every=250,
        eval_rows=2048,
    )
