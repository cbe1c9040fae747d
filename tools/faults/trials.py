"""The faults: each function tries one kind and yields a Trial for every attempt."""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.signals import ENDING
from tools.faults import harms
from tools.faults.commands import SAID, SAME, UNCLEAR, Ended, judge, run, signalled
from tools.faults.world import World, sound

JOBS = len(os.sched_getaffinity(0))


class Trial(NamedTuple):
    """One attempt: its row of the table, what was done, the verdict, what was said."""

    row: str
    what: str
    verdict: str
    said: str


def _trial(row: str, what: str, ended: Ended, same: Callable[[Ended], bool]) -> Trial:
    said = ended.refusal or "\n".join(ended.err.splitlines()[-12:])
    return Trial(row, what, judge(ended, same), said)


def _at_once(work: Callable[..., Trial], items: list[tuple]) -> Iterator[Trial]:
    with ThreadPoolExecutor(JOBS) as pool:
        yield from pool.map(lambda item: work(*item), items)


def damaged_files(
    world: World, scratch: Path, flips: int, torn: int, seed: int
) -> Iterator[Trial]:
    """Flip a bit in, or tear, empty or remove, one file; then use what it is part of.

    Runs are resumed, corpora are trained on anew, exports are used. Right is the result
    of the undamaged files or a refusal in one line.
    """
    objects: list[tuple[str, Path, Callable[[Path, Path], Ended]]] = []

    def resumed(name: str) -> Callable[[Path, Path], Ended]:
        return lambda harmed, _: run(*world.pretrain(name, harmed))

    def trained(name: str) -> Callable[[Path, Path], Ended]:
        def do(harmed: Path, fresh: Path) -> Ended:
            stop = ("--stop", "3", "--corpus", str(harmed))
            return run(*world.pretrain(name, fresh, *stop))

        return do

    def used(name: str) -> Callable[[Path, Path], Ended]:
        def do(harmed: Path, _: Path) -> Ended:
            ended = run(*world.use(name, harmed))
            vectors = Path(f"{harmed}.npz")
            if not vectors.exists():
                return ended
            with np.load(vectors) as arrays:
                read = "".join(f"{x} {arrays[x].tobytes().hex()}\n" for x in arrays)
            vectors.unlink()
            return Ended(ended.argv, ended.status, read, ended.err)

        return do

    def shown(harmed: Path, _: Path) -> Ended:
        ended = run("show", str(harmed))  # what it shows may differ
        return Ended(ended.argv, ended.status, "", ended.err)

    def imported(harmed: Path, fresh: Path) -> Ended:
        ended = run("import", str(harmed), "--out", str(fresh))
        return run(*world.use("gpt2", fresh)) if ended.status == 0 else ended

    for name in ("bert", "elmo"):
        workdir = world.here / f"run-{name}"
        objects.append((f"run of {name}", workdir, resumed(name)))
        objects.append((f"use of {name}'s run", workdir, used(name)))
        corpus = world.here / f"corpus-{name}"
        objects.append((f"corpus of {name}", corpus, trained(name)))
    for name in ("bert", "gpt2", "elmo"):
        export = world.here / f"export-{name}"
        objects.append((f"export of {name}", export, used(name)))
    objects.append(("import of gpt2", world.here / "export-gpt2", imported))
    objects.append(("show run", world.here / "run-bert", shown))
    objects.append(("show corpus", world.here / "corpus-bert", shown))
    task = world.here / "task"
    predict = ("--data", str(world.here / "task.tsv"), "--out")
    objects.append(
        (
            "fine-tuned model",
            task,
            lambda harmed, fresh: _written(
                run("predict", str(harmed), *predict, f"{fresh}.tsv"), f"{fresh}.tsv"
            ),
        )
    )

    def trial(
        row: str, source: Path, do: Callable, expected: str, plan: tuple
    ) -> Trial:
        number, harm, path = plan
        harmed = harms.copied(source, scratch / f"{number}" / source.name)
        draw = random.Random(f"{seed} {row} {number}")
        what = f"{path}: {harm(harmed / path, draw)}"
        fresh = scratch / f"{number}" / "fresh"
        ended = do(harmed, fresh)
        shutil.rmtree(scratch / f"{number}", ignore_errors=True)
        name = "flipped bit" if harm is harms.flip else "torn file"
        return _trial(f"{name}, {row}", what, ended, lambda x: _result(x) == expected)

    plans, number = [], 0
    for row, source, do in objects:
        unharmed = harms.copied(source, scratch / "unharmed" / source.name)
        expected = _result(sound(do(unharmed, scratch / "unharmed" / "fresh")))
        shutil.rmtree(scratch / "unharmed")
        draw = random.Random(f"{seed} {row}")
        files = harms.turns(source, draw)
        for _ in range(-(-flips // len(objects))):
            plans.append((row, source, do, expected, (number, harms.flip, next(files))))
            number += 1
        for _ in range(-(-torn // len(objects))):
            harm = draw.choice((harms.tear, harms.empty, harms.remove))
            plans.append((row, source, do, expected, (number, harm, next(files))))
            number += 1
    yield from _at_once(trial, plans)


def _result(ended: Ended) -> str:
    return ended.state or ended.out


def _written(ended: Ended, path: str) -> Ended:
    text = Path(path).read_text() if Path(path).exists() else ""
    return Ended(ended.argv, ended.status, text, ended.err)


def kills(world: World, scratch: Path, count: int, seed: int) -> Iterator[Trial]:
    """Kill a command at a random moment, run it again to its end, compare the bytes."""
    draw = random.Random(f"{seed} kills")

    def tree(path: Path) -> dict[str, bytes]:
        names = sorted(x for x in path.rglob("*") if x.is_file())
        return {str(x.relative_to(path)): x.read_bytes() for x in names}

    def corpus(path: Path) -> object:
        return {name: data for name, data in tree(path).items() if "plans" not in name}

    export = ("export", str(world.here / "run-bert"), "--to", "hf", "--out")
    verbs: dict[str, tuple[Callable[[Path], tuple[str, ...]], Callable, float]] = {
        "pretrain": (
            lambda out: world.pretrain("bert", out, "--save_every", "1"),
            lambda ended, out: ended.state,
            9.0,
        ),
        "prepare": (world.prepare, lambda ended, out: corpus(out), 3.0),
        "finetune": (world.finetune, lambda ended, out: ended.state, 12.0),
        "export": (lambda out: (*export, str(out)), lambda ended, out: tree(out), 5.0),
    }
    expected = {}
    for verb, (command, result, _) in verbs.items():
        out = scratch / f"whole-{verb}"
        expected[verb] = result(sound(run(*command(out))), out)

    def trial(number: int, verb: str, after: float) -> Trial:
        command, result, _ = verbs[verb]
        out = scratch / f"kill-{number}"
        killed = signalled(signal.SIGKILL, after, *command(out))
        ended = run(*command(out))
        same = ended.status == 0 and result(ended, out) == expected[verb]
        shutil.rmtree(out, ignore_errors=True)
        when = f"after {after:.2f} s" + ("" if killed.status < 0 else " (had ended)")
        return _trial(f"kill, {verb}", when, ended, lambda _: same)

    share = {"pretrain": 0.5, "finetune": 0.2, "prepare": 0.16, "export": 0.16}
    drawn = [verb for verb, part in share.items() for _ in range(round(part * count))]
    plans = [(i, v, draw.uniform(0.2, verbs[v][2])) for i, v in enumerate(drawn)]
    yield from _at_once(trial, plans)


def signals(world: World, scratch: Path, moments: int) -> Iterator[Trial]:
    """Signals in every verb, while it starts and later: 75, or finished."""
    run_dir, bert = str(world.here / "run-bert"), str(world.here / "export-bert")
    text = ("--text", str(world.text))
    data = ("--data", str(world.here / "task.tsv"))

    def commands(out: Path) -> list[tuple[str, ...]]:
        return [
            world.prepare(out / "corpus"),
            world.pretrain("bert", out / "run", "--steps", "3000"),
            world.finetune(out / "task", "--task.epochs", "100"),
            ("show", run_dir),
            ("evaluate", run_dir, *text),
            world.use("bert", Path(bert)),
            world.use("gpt2", world.here / "export-gpt2"),
            ("embed", bert, *text, "--out", str(out / "vectors.npz")),
            ("predict", str(world.here / "task"), *data, "--out", f"{out}/answers.tsv"),
            ("export", run_dir, "--to", "hf", "--out", str(out / "export")),
            ("import", bert, "--out", str(out / "import")),
        ]

    def trial(number: int, which: int, how: signal.Signals, after: float) -> Trial:
        out = scratch / f"signal-{number}"
        out.mkdir(parents=True)
        command = commands(out)[which]
        ended = signalled(how, after, *command)
        shutil.rmtree(out)
        what = f"{how.name} after {after} s"
        trial = _trial(f"signal, {command[0]}", what, ended, lambda _: True)
        saved = "saving" in ended.err and ended.status == 75
        return trial._replace(verdict=SAID) if saved else trial

    after = (0.6, 4.0, 1.5, 7.0)[:moments]
    signals = ENDING if moments > 1 else ENDING[:2]
    plans = [(v, how, at) for v in range(11) for how in signals for at in after]
    yield from _at_once(trial, [(i, *plan) for i, plan in enumerate(plans)])


_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 none "$2" || exit 125
shift_=$2; shift 2
"$@" >"$shift_/../out" 2>"$shift_/../err"; echo $? >"$shift_/../first"
mount -o remount,size=200m "$shift_"
"$@" >"$shift_/../again" 2>"$shift_/../err.again"; echo $? >"$shift_/../second"
"""


def full_disks(world: World, scratch: Path, sizes: list[int]) -> Iterator[Trial]:
    """Fill the disk, then make room and run the same command again."""
    outs: dict[str, Callable[[Path], tuple[str, ...]]] = {
        "pretrain": lambda out: world.pretrain("bert", out / "run"),
        "prepare": lambda out: world.prepare(out / "corpus"),
        "export": lambda out: (
            *("export", str(world.here / "run-bert"), "--to", "hf"),
            *("--out", str(out / "export")),
        ),
        "finetune": lambda out: world.finetune(out / "task"),
    }
    for suffix in ("h5", "npz"):
        outs[f"embed .{suffix}"] = lambda out, suffix=suffix: (
            *("embed", str(world.here / "export-bert"), "--text", str(world.text)),
            *("--out", str(out / f"vectors.{suffix}")),
        )

    def trial(verb: str, size: int) -> Trial:
        here = scratch / f"disk-{verb.replace(' ', '')}-{size}"
        (here / "disk").mkdir(parents=True)
        command = [sys.executable, "-m", "jaxlm", *outs[verb](here / "disk")]
        script = ("unshare", "-rm", "sh", "-c", _ON_A_SMALL_DISK, "sh", f"{size}k")
        done = subprocess.run([*script, str(here / "disk"), *command])
        row, what = f"full disk, {verb}", f"{size} KB"
        if done.returncode == 125:
            return Trial(row, "no small disk can be mounted here", SAME, "")

        def read(name: str) -> str:
            return (here / name).read_text(errors="replace")

        argv = tuple(command[3:])
        first = Ended(argv, int(read("first")), read("out"), read("err"))
        again = Ended(argv, int(read("second")), read("again"), read("err.again"))
        trial = _trial(row, what, first, lambda _: "warning" not in first.err)
        if trial.verdict in (SAME, SAID) and again.status:
            return _trial(row, f"{what}, again with room", again, lambda _: False)
        return trial

    plans = [(verb, size) for verb in outs for size in sizes]
    yield from _at_once(trial, plans)


def divergence(world: World, scratch: Path) -> Iterator[Trial]:
    """A rate that diverges: the run stops, its last checkpoint is finite and usable."""
    row, out = "diverging run", scratch / "diverges"
    wild = ("--optim.clip", "0", "--steps", "2000", "--save_every", "1")
    at_once = ("--optim.peak", "1e18", "--optim.warmup", "0")
    first = world.pretrain("bert", scratch / "at-once", *wild, *at_once)
    yield _trial(row, "from the first step", run(*first), lambda _: False)
    later = ("--optim.peak", "1e6", "--optim.warmup", "1000")
    ended = run(*world.pretrain("bert", out, *wild, *later))
    yield _trial(row, "after some steps", ended, lambda _: False)
    fork = re.search(r"pretrain --fork .+", ended.refusal)
    if not fork:
        yield Trial(row, "the advice", UNCLEAR, ended.refusal)
    else:
        words = re.sub(r"(--optim.peak) \S+", r"\1 1e-3", fork[0])
        advised = run(*shlex.split(words), "--stop", "8")
        yield _trial(row, "the advice followed", advised, lambda x: bool(x.state))
    for verb in ("fill", "evaluate", "export"):
        more = {
            "fill": ("a [MASK] b",),
            "evaluate": ("--text", str(world.text)),
            "export": ("--to", "hf", "--out", str(scratch / "diverged")),
        }[verb]
        used = run(verb, str(out), *more)
        finite = "nan" not in used.out.lower()
        yield _trial(row, f"{verb} of what is left", used, lambda _, ok=finite: ok)
    harmed = harms.copied(world.here / "export-bert", scratch / "nan")
    _poison(harmed / "model.safetensors")
    (harmed / "jaxlm_export.json").unlink(missing_ok=True)
    for verb in ("fill", "export"):
        more = {"fill": ("a [MASK] b",), "export": ("--to", "onnx", "--out", "none")}
        used = run(verb, str(harmed), *more[verb])
        yield _trial("NaN in weights", verb, used, lambda _: False)


def _poison(path: Path) -> None:
    """Make one weight NaN."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    name = max(tensors, key=lambda x: tensors[x].size)
    tensors[name].flat[7] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
