"""STS-B with a GPT: both orders of the two texts, the two vectors added.

MRPC and QQP have the same form, with classes.

Paper: Radford et al. 2018, section 3.3 and figure 1; all else as in sst2_gpt. It does
not say how a number is learnt: here by squared error, as in stsb.
Published: 82.0 Pearson of GPT-1 on STS-B's test file, F1 82.3 on MRPC's (table 4).
Cost: 538 steps; of GPT-1 1.1 × 10^15 FLOP at 2 × 44 tokens an example. MRPC: 344 steps,
1.2 × 10^15 at 2 × 77.

    jaxlm finetune similarity_gpt --init models/gpt1 --data glue/STS-B --workdir runs/a
    jaxlm finetune similarity_gpt --init models/gpt1 --data glue/MRPC --workdir runs/b \
        --task.kind class --task.metric f1 --task.label Quality \
        --task.text '#1 String' --task.pair '#2 String'
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="number",
        text="sentence1",
        pair="sentence2",
        both_orders=True,
        label="score",
        metric="pearson",
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
