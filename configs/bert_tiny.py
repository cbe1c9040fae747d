"""BERT-tiny on a laptop: the quickstart.

Paper: Turc et al. 2019 (arXiv 1908.08962) for the size, Devlin et al. 2018 for the
rest.
Cost: minutes on 2 CPU cores.

    jaxlm prepare  bert_tiny --text 'books/*.txt' --corpus corpora/books
    jaxlm pretrain bert_tiny --corpus corpora/books --workdir runs/tiny
"""

from jaxlm.config import OptimConfig, RunConfig, bert


def get_config() -> RunConfig:
    return RunConfig(
        model=bert("tiny", vocab_size=8192, max_length=128, dropout=0.0),
        optim=OptimConfig(name="adamw", peak=2e-3, warmup=100, decay="linear"),
        steps=800,
        batch=32,
        length=128,
        predictions=20,
        save_every=400,
        eval_every=200,
        eval_rows=512,
    )
