"""SQuAD 1.1, and files of its form: the span of a document that answers a question.

Paper: Devlin et al. 2018, section 4.2: 32 rows, rate 5e-5, 3 passes. From
google-research/bert's README and run_squad.py: 384 tokens, windows that move by 128,
questions of up to 64 tokens, answers of up to 30 (and 12 rows at 3e-5, 2 passes). For
Chinese files (CMRC 2018, DRCD) pass --task.rules cmrc.
Published: EM 80.8, F1 88.5 of BERT-base on the dev file.
Cost: 8,300 steps; of BERT-base 5.6 × 10^16 FLOP.

    jaxlm finetune squad --init models/bert --data train-v1.1.json --workdir runs/qa
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task=TaskConfig(kind="spans", metric="f1"),
        optim=OptimConfig(name="bert_adam", peak=5e-5, decay="linear_kinked"),
        batch=32,
        length=384,
        save_every=500,
    )
