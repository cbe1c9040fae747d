"""ELMo as published: two layers of 4096 cells, 793,471 words, sampled softmax, Adagrad.

Paper: Peters et al. 2018 (arXiv 1802.05365); code and settings from allenai/bilm-tf
(bilm/training.py, bin/train_elmo.py). Text: the 1 Billion Word Benchmark, already cut
into words; ten passes over 768,648,884 words. One sample of 8192 words serves the whole
batch; the original drew one on each of its three GPUs.
Cost: two weeks on three GTX 1080 Ti as published (bilm-tf's README).
Chips: the 384 rows are 128 for each of three, as published; one, two or four do as
well. They cannot fill a pod: on 256 chips, two rows each are at most 1 % of the peak.

    jaxlm pretrain elmo_original --text '1b/*.txt' --workdir runs/elmo
"""

from jaxlm.config import BilmData, OptimConfig, RunConfig, TextConfig, elmo


def get_config() -> RunConfig:
    return RunConfig(
        model=elmo("original"),
        text=TextConfig(tokenizer="words", lowercase=False, words="space"),
        data=BilmData(negatives=8192),
        optim=OptimConfig(
            name="adagrad",
            peak=0.2,
            warmup=0,
            decay="constant",
            weight_decay=0.0,
            clip=10.0,
            accumulator=1.0,
            factor=20.0,
        ),
        steps=1_000_840,
        batch=384,
        length=20,
        save_every=1250,
        eval_every=12_500,
    )
