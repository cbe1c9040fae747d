"""SST-2 on ELMo's features: a frozen biLM, its layers mixed for the task, a BiLSTM.

Paper: Peters et al. 2018, section 3 and its appendix (SST-5): a frozen biLM, dropout .5
on its vectors, Adam at .001, the best checkpoint on the dev file. The paper's task
model is McCann et al.'s biattentive network; here it is a BiLSTM and a maximum over the
words (Conneau et al. 2017), without other word vectors.
Published: 54.7 accuracy on SST-5, 51.4 without ELMo (table 1); none on SST-2.
Cost: 21,046 steps; on the original biLM 1.7 × 10^15 FLOP at 10 words a row.

    jaxlm finetune sst2_elmo --init runs/elmo --data glue/SST-2 --workdir runs/sst2

Baselines: the biLM's word vectors without their contexts; the same without pretraining,
learnt from the task.

    … --task.layers 0
    … --task.layers 0 --task.fresh 'words/.*' --task.freeze 'layers/.*'
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig, elmo


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="class",
        text="sentence",
        label="label",
        pooling="max",
        mix="input",
        penalty=0.001,
        body="bilstm",
        width=200,
        dropout=0.5,
        freeze=("words/.*", "layers/.*"),
        epochs=10.0,
    )
    return FinetuneConfig(
        model=elmo("original", vocab_size=0),
        task=task,
        optim=OptimConfig(
            name="adamw",
            peak=1e-3,
            weight_decay=0.0,
            clip=5.0,
            warmup=0,
            decay="constant",
        ),
        batch=32,
        length=128,
        save_every=500,
    )
