"""SWAG: which of four endings continues a sentence; a row each, a softmax over them.

Paper: Devlin et al. 2018, section 4.4: 16 rows, 3 passes, rate 2e-5; an ending's score
is the product of a new vector with [CLS]. That code was not released, so this follows
transformers: the pooler's output in place of [CLS], and a bias, which changes no
choice.
Published: 81.6 accuracy of BERT-base on the dev file, 86.6 of BERT-large (table 4).
Cost: 13,790 steps; of BERT-base 2.2 × 10^16 FLOP at 4 × 48 tokens an example.

    jaxlm finetune choice --init models/bert --data swag/ --workdir runs/swag
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="choice",
        text="sent1",
        pair="sent2",
        choices=("ending0", "ending1", "ending2", "ending3"),
        label="label",
    )
    return FinetuneConfig(
        task=task,
        optim=OptimConfig(name="bert_adam", peak=2e-5, decay="linear_kinked"),
        batch=16,
        length=128,
        save_every=1000,
    )
