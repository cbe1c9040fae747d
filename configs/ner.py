"""Named entities: a tag for each word of a sentence, in BIO, BIOES or BMES.

Paper: Devlin et al. 2018, section 5.3 (CoNLL-2003): a softmax at the first token of
each word, no CRF; rates of 5e-5 to 2e-5, 32 rows, 3 passes as for all tasks (A.3).
Published: 92.4 entity F1 of BERT-base on CoNLL-2003's test file, 96.4 on its dev file.
Cost: of BERT-base 5.2 × 10^14 FLOP for CoNLL-2003's 14,041 sentences, at 24
tokens a row.

    jaxlm finetune ner --init models/bert --data conll/ --workdir runs/ner
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task=TaskConfig(kind="tokens", metric="entity_f1"),
        optim=OptimConfig(name="bert_adam", peak=5e-5, decay="linear_kinked"),
        batch=32,
        length=128,
        save_every=500,
    )
