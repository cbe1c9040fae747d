"""STS-B: how similar two sentences are, from 0 to 5; two texts, a number.

Paper: Devlin et al. 2018, section 4.1. The released code has no regression; this is
squared error on the unscaled score, as is usual since.
Published: 85.8 Spearman of BERT-base on the test file.
Cost: 538 steps; of BERT-base 3.5 × 10^14 FLOP at 40 tokens a row.

    jaxlm finetune stsb --init models/bert --data glue/STS-B --workdir runs/stsb
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="number",
        text="sentence1",
        pair="sentence2",
        label="score",
        metric="spearman",
    )
    return FinetuneConfig(
        task=task,
        optim=OptimConfig(name="bert_adam", peak=2e-5, decay="linear_kinked"),
        batch=32,
        length=128,
        save_every=500,
    )
