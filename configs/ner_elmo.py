"""Named entities on ELMo's features: a frozen biLM, its layers mixed, two BiLSTMs.

Paper: Peters et al. 2018, section 4 and its appendix (CoNLL-2003), as AllenNLP's
ner_elmo.jsonnet: two layers of 200 cells in each direction, dropout .5, λ = .1 on the
weights of the mix, Adam at .001, gradients clipped at 5. Here each word has a softmax
in place of a CRF, and there are no other word vectors.
Published: 92.22 ± 0.10 entity F1 on CoNLL-2003's test file, 90.15 without ELMo.
Cost: 10,969 steps; on the original biLM 1.3 × 10^15 FLOP at 15 words a row.

    jaxlm finetune ner_elmo --init runs/elmo --data conll/ --workdir runs/ner
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig, elmo


def get_config() -> FinetuneConfig:
    task = TaskConfig(
        kind="tokens",
        metric="entity_f1",
        mix="input",
        penalty=0.1,
        body="bilstm",
        width=200,
        depth=2,
        dropout=0.5,
        freeze=("words/.*", "layers/.*"),
        epochs=25.0,
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
