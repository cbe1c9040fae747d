"""Parts of speech: a tag for each word of a sentence, the UPOS of CoNLL-U's files.

Data: Universal Dependencies (Nivre et al. 2020, arXiv 2004.10643), with the same 17
tags in all languages, so that a tagger of one language is tested on others: Pires et
al. 2019 (arXiv 1906.01502), table 2. A softmax at the first token of each word, as in
`ner`; rates of 5e-5 to 2e-5, 32 rows, 3 passes as for all of BERT's tasks (A.3).
Cost: of BERT-base 4.7 × 10^14 FLOP for English EWT's 12,544 sentences, at 24 tokens
a row.

    jaxlm finetune upos --init models/mbert --data ud_en_ewt/ --workdir runs/upos \\
        --transfer ud_pud/
"""

from jaxlm.config import FinetuneConfig, OptimConfig, TaskConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task=TaskConfig(kind="tokens", metric="accuracy"),
        optim=OptimConfig(name="bert_adam", peak=5e-5, decay="linear_kinked"),
        batch=32,
        length=128,
        save_every=500,
    )
