"""GPT-1 as published: 12 layers after-norm, one embedding matrix, 117M parameters.

Paper: Radford et al. 2018, section 4.1: BooksCorpus, 64 rows of 512 tokens, 100 epochs
(about 3M steps at 1B tokens), Adam to 2.5e-4 over 2,000 steps, cosine to 0, decay .01
on all but biases and gains, dropout .1, N(0, .02). The pretraining code was never
released; the model is that of openai/finetune-transformer-lm.
Cost: 7.4 × 10^19 FLOP; about 50 hours on one H200 at half of its matmul rate.

    jaxlm prepare  gpt1 --text 'books/*.txt' --tokenizer gpt1/ --corpus c/books
    jaxlm pretrain gpt1 --corpus c/books --workdir runs/gpt1
"""

from jaxlm.config import OptimConfig, RunConfig, TextConfig, gpt1


def get_config() -> RunConfig:
    return RunConfig(
        model=gpt1(),
        text=TextConfig(verbatim=True),
        optim=OptimConfig(
            name="gpt1_adam", peak=2.5e-4, warmup=2000, decay="cosine", eps=1e-8
        ),
        steps=3_000_000,
        batch=64,
        length=512,
        save_every=5000,
        keep_every=500_000,
        eval_every=5000,
    )
