"""MNLI: whether a sentence follows from another, contradicts it or neither.

Two texts, three classes. RTE, QNLI and WNLI have the same form with --task.label label.

Paper: Devlin et al. 2018, section 4.1; google-research/bert's README: 128 tokens, 32
rows, rate 2e-5, 3 passes over 392,702 pairs.
Published: 84.6 (matched) and 83.4 of BERT-base on the test files.
Cost: 36,815 steps; of BERT-base 3.0 × 10^16 FLOP at 50 tokens a row.

    jaxlm finetune mnli --init models/bert --data glue/MNLI --workdir runs/mnli
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="class", text="sentence1", pair="sentence2", label="gold_label"
    )
    return FinetuneConfig(
        task=task,
        optim=OptimConfig(name="bert_adam", peak=2e-5, decay="linear_kinked"),
        batch=32,
        length=128,
        save_every=1000,
    )
