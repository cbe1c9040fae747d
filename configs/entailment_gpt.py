"""MNLI with a GPT: start, premise, delimiter, hypothesis, extract token.

RTE, QNLI and SNLI have the same form with other columns.

Paper: Radford et al. 2018, section 3.3 and figure 1; all else as in sst2_gpt.
Published: 82.1 (matched) and 81.4 of GPT-1 on the test files; 56.0 on RTE's (table 2).
Cost: 36,815 steps; of GPT-1 4.0 × 10^16 FLOP at 48 tokens a row. RTE: 233 steps,
5.4 × 10^14 at 104.

    jaxlm finetune entailment_gpt --init models/gpt1 --data glue/MNLI --workdir runs/a
    jaxlm finetune entailment_gpt --init models/gpt1 --data glue/RTE --workdir runs/b \
        --task.label label
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="class",
        text="sentence1",
        pair="sentence2",
        label="gold_label",
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
        save_every=1000,
    )
