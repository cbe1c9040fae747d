"""Multilingual BERT, cased: BERT-base over 104 Wikipedias, sampled by smoothed shares.

Published: google-research/bert, multilingual.md; no paper of its own (BERT: Devlin et
al. 2018, arXiv 1810.04805). No lower-casing or normalisation, 119,547 pieces, each
ideograph a word; languages are sampled by their share to the power 0.7, for rows and
for the vocabulary. Its steps, its batch and the language of a random second segment
were not published: here as in `bert_base`, and a document of any language. The list of
languages is the published one, by Wikipedia's codes; Chinese, in both scripts, is one
of them here (the 104 count two).
Cost: 2.7 × 10^19 FLOP; 18 hours on one H200 at half of its matmul rate.

    jaxlm prepare  mbert --text en:'wiki/en/*.txt' is:'wiki/is/*.txt' --corpus c/wikis
    jaxlm pretrain mbert --corpus c/wikis --workdir runs/mbert
"""

import dataclasses

from jaxlm.config import RunConfig, TextConfig, bert, load_config

LANGUAGES = (
    "af an ar ast az azb ba bar be bg bn bpy br bs ca ce ceb cs cv cy da de el en es "
    "et eu fa fi fr fy ga gl gu he hi hr ht hu hy id io is it ja jv ka kk kn ko ky la "
    "lb lmo lt lv mg min mk ml mn mr ms my nb nds ne new nl nn oc pa pl pms pnb pt ro "
    "ru scn sco sh sk sl sq sr su sv sw ta te tg th tl tr tt uk ur uz vi vo war yo zh"
)


def get_config() -> RunConfig:
    return dataclasses.replace(
        load_config("bert_base"),
        model=bert("base", vocab_size=119_547),
        text=TextConfig(lowercase=False, languages=tuple(LANGUAGES.split())),
        smoothing=0.7,
    )
