"""SST-2: whether a phrase from a film review is positive or negative; two classes.

Paper: Devlin et al. 2018, sections 4.1 and A.3: 32 rows, 3 passes, rates of 5e-5, 4e-5,
3e-5 and 2e-5 tried on the dev file, dropout .1. From google-research/bert
run_classifier.py: 128 tokens, Adam without bias correction, clipping at 1, warm-up over
a tenth of the steps, below a line that falls from step 0.
Published: 93.5 accuracy of BERT-base on the test file, 92.7 on the dev file (table 5).
Cost: 6,313 steps; of BERT-base 4.2 × 10^15 FLOP at 40 tokens a row.

    jaxlm finetune sst2 --init models/bert --data glue/SST-2 --workdir runs/sst2
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task=TaskConfig(kind="class", text="sentence", label="label"),
        optim=OptimConfig(name="bert_adam", peak=2e-5, decay="linear_kinked"),
        batch=32,
        length=128,
        save_every=500,
    )
