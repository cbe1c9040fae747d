"""Multilingual BERT for a laptop: 2 layers, 128 wide, text in any of mbert's languages.

Published: google-research/bert, multilingual.md, for the cased vocabulary and the
smoothing of the languages' shares by 0.7 (BERT: Devlin et al. 2018, arXiv 1810.04805).
Size, rate and initialisation are those of bert_tiny, with a vocabulary twice as large.
Cost: an hour on one CPU core.

    jaxlm prepare  mbert_tiny --text en:'en/*.txt' zh:'zh/*.txt' --corpus corpora/multi
    jaxlm pretrain mbert_tiny --corpus corpora/multi --workdir runs/multi
"""

import dataclasses

from jaxlm.config import RunConfig, load_config


def get_config() -> RunConfig:
    tiny, published = load_config("bert_tiny"), load_config("mbert")
    return dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, vocab_size=16_000),
        text=published.text,
        smoothing=0.7,
    )
