"""SQuAD 2.0: SQuAD with questions that have no answer.

Paper: Devlin et al. 2018, section 4.3: no answer is a span at [CLS]; the dev file
chooses the threshold by which it must score above the best span. 48 rows, rate 5e-5, 2
passes.
Published: EM 78.7, F1 81.9 of BERT-large on the dev file.
Cost: 5,500 steps; of BERT-base 5.6 × 10^16 FLOP.

    jaxlm finetune squad2 --init models/bert --data train-v2.0.json --workdir runs/qa
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task=TaskConfig(kind="spans", metric="best_f1", epochs=2.0),
        optim=OptimConfig(name="bert_adam", peak=5e-5, decay="linear_kinked"),
        batch=48,
        length=384,
        save_every=500,
    )
