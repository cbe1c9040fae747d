"""GPT-2 124M by Muon: 12 layers, 768 wide.

Papers: Radford et al. 2019 for the architecture; Jordan et al. 2024 and Liu et al. 2025
(arXiv 2502.16982) for Muon. Rates are those of D-Muon for 124M in Semenov et al. 2025
(arXiv 2509.01440; epfml/llm-baselines, scripts/124m/d-muon.sh): peak 1e-3 for all
parameters, Adam's .8/.999, decay .1, clipping at .5, cosine; they trained 128k steps of
256 rows of 512 tokens. Rows and batch are those of `gpt2_small`, and steps half of its:
Liu et al. need 52 % of AdamW's FLOP for its loss.
Cost: 1.3 × 10^20 FLOP; 89 hours on one H200 at half of its matmul rate.

    jaxlm prepare  gpt2_small_muon --text 'web/*.jsonl' --tokenizer gpt2/ --corpus c/web
    jaxlm pretrain gpt2_small_muon --corpus c/web --workdir runs/gpt2
"""

import dataclasses

from jaxlm.config import OptimConfig, RunConfig, load_config


def get_config() -> RunConfig:
    return dataclasses.replace(
        load_config("gpt2_small"),
        optim=OptimConfig(
            name="muon",
            peak=1e-3,
            warmup=2000,
            decay="cosine",
            weight_decay=0.1,
            clip=0.5,
            b1=0.8,
            b2=0.999,
            eps=1e-8,
        ),
        steps=300_000,
    )
