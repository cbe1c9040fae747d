"""MRPC: whether two sentences from the news mean the same; two texts, two classes.

Paper: Devlin et al. 2018, section 4.1; google-research/bert's README runs it with 128
tokens, 32 rows, rate 2e-5 and 3 passes: 343 steps. So few that seeds differ by points.
Published: 84 to 88 accuracy of BERT-base on the dev file, F1 88.9 on the test file.
Cost: 343 steps; of BERT-base 4.6 × 10^14 FLOP at 80 tokens a row.

    jaxlm finetune mrpc --init models/bert --data glue/MRPC --workdir runs/mrpc
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="class",
        text="#1 String",
        pair="#2 String",
        label="Quality",
        metric="f1",
    )
    return FinetuneConfig(
        task=task,
        optim=OptimConfig(name="bert_adam", peak=2e-5, decay="linear_kinked"),
        batch=32,
        length=128,
        save_every=500,
    )
