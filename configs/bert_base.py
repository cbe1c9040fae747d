"""BERT-base as published: static masks, Google's Adam, 128 then 512 tokens.

Paper: Devlin et al. 2018, section A.2: 256 rows, 1M steps, rate 1e-4, 10k warm-up, β
.9/.999, decay .01, dropout .1, 90 % of the steps at length 128. From
google-research/bert, what the paper leaves out: no bias correction, the kink where
warm-up ends, clipping at 1, ten mask draws a row, 20 and 77 predictions. Published
text: 3.3B words, lower-cased.
Cost: 2.6 × 10^19 FLOP: 4 days on 16 TPU v2 chips in 2018.

    jaxlm prepare  bert_base --text 'wiki/*.txt' --tokenizer vocab.txt --corpus c/w
    jaxlm pretrain bert_base --corpus c/w --workdir runs/base
"""

from jaxlm.config import MaskedData, OptimConfig, Phase, RunConfig, bert


def get_config() -> RunConfig:
    return RunConfig(
        model=bert("base"),
        data=MaskedData(draws=10),
        optim=OptimConfig(name="bert_adam", warmup=10_000, decay="linear_kinked"),
        steps=1_000_000,
        phases=(
            Phase(until=900_000, length=128, batch=256, predictions=20),
            Phase(until=1_000_000, length=512, batch=256, predictions=77),
        ),
        save_every=5000,
        keep_every=100_000,
        eval_every=5000,
    )
