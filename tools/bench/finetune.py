"""Fine-tuning a BERT for a task, against transformers on torch: quality and speed.

    python -m tools.bench.finetune sst2 --seeds 3 --init models/minilm \\
        --data glue/SST-2 --task.limit 4000 --optim.name adamw --optim.decay linear

Other arguments are passed to `jaxlm finetune`. The peer has the same weights, tokens,
loss, dropout, AdamW, schedule, clipping, batch and number of steps, and is scored by
the same functions at the same steps; its rows are shuffled anew in each pass and each
batch is padded to its longest row, as transformers' own collator does. Seeds take
turns, each side in a fresh process. Examples a second are those of the training steps
alone, ours without compilation; the seconds of each whole process stand beside them.

    python -m tools.bench.finetune sst2 --exact --init … --data … --task.limit 640

With --exact: the losses of all steps side by side, without dropout, from our head and
on our batches.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

THREADS = len(os.sched_getaffinity(0))


def theirs(arguments: list[str], exact: bool = False) -> None:
    """One seed on torch; prints the best figures, the speed and losses as JSON.

    Args:
        arguments: of `jaxlm finetune`.
        exact: start from our head and take our batches.
    """
    import torch
    from transformers import BertModel

    from jaxlm.tasks.batches import bucket_lengths, shuffled
    from jaxlm.tasks.task import NONE
    from jaxlm.train.optim import make_schedule

    run = opened(arguments)
    config, task, optim = run.config, run.config.task, run.config.optim
    if task.freeze or task.layer_decay != 1 or optim.name != "adamw":
        raise SystemExit("the peer knows neither freezing nor other optimisers")

    torch.manual_seed(config.seed)
    torch.set_num_threads(THREADS)
    random = np.random.default_rng(config.seed)
    rate = config.model.dropout
    encoder = BertModel.from_pretrained(
        config.init,
        add_pooling_layer=task.pooling == "pooler",
        hidden_dropout_prob=rate,
        attention_probs_dropout_prob=rate,
    )
    head = torch.nn.Linear(config.model.d_model, run.task.outputs)
    # As Google's: transformers cuts nothing, which is wider by 14 %. A narrow model
    # learns much slower from a narrower head.
    std = task.head_std
    torch.nn.init.trunc_normal_(head.weight, std=std, a=-2 * std, b=2 * std)
    torch.nn.init.zeros_(head.bias)
    if exact:
        from jaxlm.train.state import init_params

        mine = init_params(run.module, config.seed)["task"]
        head.weight.data = torch.tensor(np.asarray(mine["kernel"]).T.copy())
    whole = torch.nn.ModuleDict(
        {"encoder": encoder, "drop": torch.nn.Dropout(rate), "head": head}
    )

    def logits(batch: Any) -> Any:
        out = encoder(
            torch.from_numpy(batch.tokens).long(),
            token_type_ids=torch.from_numpy(batch.token_types).long(),
            attention_mask=torch.from_numpy(batch.mask).long(),
        )
        mask = torch.from_numpy(batch.mask)[..., None].float()
        x = {
            "none": lambda: out.last_hidden_state,
            "cls": lambda: out.last_hidden_state[:, 0],
            "pooler": lambda: out.pooler_output,
            "mean": lambda: (out.last_hidden_state * mask).sum(1) / mask.sum(1),
        }[run.module.pooling]()
        return head(whole["drop"](x))

    def loss(batch: Any) -> Any:
        found, labels = logits(batch), torch.from_numpy(batch.labels)
        cross_entropy = torch.nn.functional.cross_entropy
        match task.kind:
            case "class":
                return cross_entropy(found, labels.long())
            case "number":
                return torch.nn.functional.mse_loss(found[:, 0], labels)
            case "tokens":
                unknown = torch.from_numpy(batch.weights) == 0
                labels = labels.long().masked_fill(unknown, -100)
                return cross_entropy(found.flatten(0, 1), labels.flatten())
            case "spans":
                padding = ~torch.from_numpy(batch.mask)[..., None]
                found = found.masked_fill(padding, -1e9)
                at = labels.long()
                parts = [cross_entropy(found[..., i], at[:, i]) for i in range(2)]
                return sum(parts) / 2

    groups: dict[bool, list] = {True: [], False: []}
    for name, parameter in whole.named_parameters():
        groups["bias" not in name and "LayerNorm" not in name].append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": optim.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=1.0,
        betas=(optim.b1, optim.b2),
        eps=optim.eps,
    )
    rates = make_schedule(optim, config.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: float(rates(t)))

    def evaluated() -> dict[str, float]:
        rows = run.dev.rows
        whole.eval()
        scores: list[Any] = [None] * len(rows.tokens)
        order = np.argsort(rows.lengths, kind="stable")
        with torch.no_grad():
            for at in range(0, len(order), config.batch):
                index = order[at : at + config.batch]
                found = logits(_batch(rows, index)).numpy()
                for i, score in zip(index, found, strict=True):
                    scores[i] = score[: rows.lengths[i]] if score.ndim == 2 else score
        whole.train()
        return run.task.figures(run.dev, scores)

    def indices() -> Iterator[np.ndarray]:
        rows = run.train.rows
        if exact:
            packed = run.source().open_stream(config.all_phases[0], "train.0").rows
            buckets = () if packed else task.buckets
            padded = bucket_lengths(rows.lengths, buckets, config.length)
            order = {"seed": config.seed, "stream": "train.0"}
            for index in shuffled(padded, config.batch, config.steps, **order).index:
                yield index[index != NONE]
        while True:
            order = random.permutation(len(rows.tokens))
            for at in range(0, len(order), config.batch):
                yield order[at : at + config.batch]

    whole.train()
    seconds, seen, best, losses = 0.0, 0, {}, []
    for step, index in enumerate(itertools.islice(indices(), config.steps), start=1):
        began = time.perf_counter()
        value = loss(_batch(run.train.rows, index))
        value.backward()
        torch.nn.utils.clip_grad_norm_(whole.parameters(), optim.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(value.item())
        seconds += time.perf_counter() - began
        seen += len(index)
        if step % config.eval_every == 0 or step == config.steps:
            figures = evaluated()
            if not best or figures[task.metric] > best[task.metric]:
                best = figures
    found = {**best, "examples_per_second": seen / seconds}
    print(json.dumps([found, losses]))


def opened(arguments: list[str]) -> Any:
    """The run of a command, as `jaxlm finetune` opens it."""
    import jaxlm
    from jaxlm.cli.arguments import parse
    from jaxlm.cli.finetune import Finetune
    from jaxlm.config import load_config
    from jaxlm.tasks.data_files import find_data_files
    from jaxlm.tasks.finetune import open_run

    recipe: Any = load_config(arguments[0])
    model = jaxlm.load(arguments[arguments.index("--init") + 1])
    length = min(recipe.length, model.config.max_length)
    config = dataclasses.replace(recipe, model=model.config, length=length)
    command = [*arguments[1:], "--workdir", "none"]
    args = parse(Finetune, command, config=config)
    return open_run(args.config, model.tokenizer, find_data_files(args.data, args.dev))


def _batch(rows: Any, index: np.ndarray) -> Any:
    from jaxlm.tasks.batches import padded_batch

    return padded_batch(rows, index, int(rows.lengths[index].max()))


def ours(arguments: list[str], workdir: Path) -> dict[str, float]:
    """One seed by the command line: the best figures and the speed."""
    command = ["-m", "jaxlm", "finetune", *arguments, "--workdir", str(workdir)]
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=sys.stderr)
    whole = time.perf_counter() - began
    from jaxlm.checkpoints import Checkpoints

    best = Checkpoints(workdir / "best")
    figures = best.stored().meta
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    speeds = [json.loads(line)["tokens_per_second"] for line in lines]
    speed = statistics.median(each for each in speeds if each)
    run = opened(arguments)
    phase = run.config.all_phases[0]
    tokens = run.source().open_stream(phase, "train.0").tokens  # of a step, padded
    return {
        **figures,
        "examples_per_second": speed / tokens * phase.batch,
        "whole_seconds": whole,
    }


def asked(arguments: list[str]) -> tuple[dict[str, float], list[float]]:
    """Their figures and losses, from a process of its own."""
    command = ["-m", "tools.bench.finetune", "--theirs", *arguments]
    done = subprocess.run(
        [sys.executable, *command], check=True, stdout=subprocess.PIPE
    )
    figures, losses = json.loads(done.stdout.splitlines()[-1])
    return figures, losses


def side_by_side(arguments: list[str]) -> None:
    """The losses of all steps without dropout."""
    still = [*arguments, "--model.dropout", "0", "--log.every", "1", "--seed", "0"]
    with tempfile.TemporaryDirectory() as directory:
        ours(still, Path(directory) / "run")
        lines = (Path(directory) / "run" / "metrics.jsonl").read_text().splitlines()
    mine = [json.loads(line)["task_loss"] for line in lines]
    _, theirs = asked([*still, "--exact"])
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True), start=1):
        print(f"step {step:3d}  ours {a:.7f}  theirs {b:.7f}  {a - b:+.1e}")
    worst = max(abs(a - b) / b for a, b in zip(mine, theirs, strict=True))
    print(f"largest relative difference {worst:.1e}")


def main() -> None:
    """Take turns, print."""
    if sys.argv[1:2] == ["--theirs"]:
        exact = "--exact" in sys.argv
        theirs([each for each in sys.argv[2:] if each != "--exact"], exact)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="the lowest seed")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--exact", action="store_true", help="losses side by side")
    args, rest = parser.parse_known_args()
    if args.exact:
        side_by_side([args.recipe, *rest])
        return
    sides: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(args.first, args.first + args.seeds):
            arguments = [args.recipe, *rest, "--seed", str(seed)]
            sides["ours"].append(ours(arguments, Path(directory) / str(seed)))
            if args.ours_only:
                continue
            began = time.perf_counter()
            found, _ = asked(arguments)
            found["whole_seconds"] = time.perf_counter() - began
            sides["theirs"].append(found)
            print(json.dumps({name: each[-1] for name, each in sides.items()}))
    print(f"{' '.join([args.recipe, *rest])}; {THREADS} threads, {args.seeds} seeds")
    for side, found in sides.items():
        for name in found[0] if found else ():
            values = [each[name] for each in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            listed = " ".join(f"{value:.4g}" for value in values)
            print(
                f"{side:7} {name:22} {statistics.mean(values):.4f} ± {spread:.4f}"
                f"   {listed}"
            )
    if sides["theirs"]:
        ratios = [
            a["examples_per_second"] / b["examples_per_second"]
            for a, b in zip(sides["ours"], sides["theirs"], strict=True)
        ]
        print(
            f"ratio of examples a second {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
