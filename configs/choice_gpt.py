"""RACE with a GPT: start, article, question, delimiter, answer, extract token.

Each answer is a row, with a softmax over them. Story Cloze has the same form with other
columns.

Paper: Radford et al. 2018, section 3.3 and figure 1; all else as in sst2_gpt. Article
and question are truncated to 254 tokens each, as in openai/finetune-transformer-lm
train.py.
Published: 59.0 accuracy of GPT-1 on RACE, 86.5 on Story Cloze (table 3).
Cost: 8,237 steps; of GPT-1 2.4 × 10^17 FLOP at 4 × 310 tokens an example.

    jaxlm finetune choice_gpt --init models/gpt1 --data race/ --workdir runs/race
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="choice",
        text="article",
        pair="question",
        choices=("options",),
        label="answer",
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
