"""BERT-mini (4 layers, 256 wide), with next-sentence prediction.

Paper: Turc et al. 2019 (arXiv 1908.08962) for the size, Devlin et al. 2018 for the
rest; AdamW with bias correction and fresh masks in every pass.
Cost: 8 × 10^14 FLOP per thousand steps; hours on 2 CPU cores, minutes on a GPU.

    jaxlm prepare  bert_mini --text 'books/*.txt' --corpus corpora/books30k
    jaxlm pretrain bert_mini --corpus corpora/books30k --workdir runs/mini
"""

from jaxlm.config import OptimConfig, RunConfig, bert


def get_config() -> RunConfig:
    return RunConfig(
        model=bert("mini"),
        optim=OptimConfig(name="adamw", peak=5e-4, warmup=1000, decay="linear"),
        steps=20_000,
        batch=128,
        length=128,
        predictions=20,
        save_every=1000,
        eval_every=1000,
    )
