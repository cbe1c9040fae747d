"""SST-2 with a GPT: start, text, extract token, and a language-modelling loss beside.

Paper: Radford et al. 2018, sections 3.2, 3.3 and 4.1: 32 rows, 3 passes, rate 6.25e-5,
warm-up over .2 % of the steps, dropout .1 also on the classifier, λ = .5 for the
language-modelling loss. From openai/finetune-transformer-lm train.py and opt.py: its
Adam, eps 1e-8, decay .01 by the corrected rate, clipping at 1, a line from step 0.
Published: 91.3 accuracy of GPT-1 on the test file (table 4).
Cost: 6,313 steps; of GPT-1 3.0 × 10^15 FLOP at 22 tokens a row.

    jaxlm finetune sst2_gpt --init models/gpt1 --data glue/SST-2 --workdir runs/sst2
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="class",
        text="sentence",
        label="label",
        pooling="last",
        lm_weight=0.5,
        dropout=0.1,
    )
    return FinetuneConfig(
        task=task,
        optim=OptimConfig(
            name="gpt1_adam",
            peak=6.25e-5,
            decay="linear_kinked",
            warmup=0.002,
            eps=1e-8,
        ),
        batch=32,
        length=512,
        save_every=500,
    )
