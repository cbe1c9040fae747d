"""`jaxlm VERB …`: import the file of the verb, run it, report mistakes in one line."""

import errno
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import jaxlm
from jaxlm.cli.runtime import (
    Command,
    Where,
    end_on_signals,
    is_left_to_first,
    running,
    show_errors,
    wait_if_a_host_is_lost,
)
from jaxlm.files import answers_later
from jaxlm.types import INTERRUPTED, Note, UserError

VERBS = {  # each is a function run_VERB of a file
    "prepare": ("pretrain", "text → tokenizer → corpus"),
    "pretrain": ("pretrain", "train a model on a corpus, or resume a run"),
    "plan": ("plan", "memory, speed and hours on a machine that you do not have"),
    "launch": ("launch", "a script or manifest for a TPU pod, Kubernetes or Slurm"),
    "show": ("show", "describe a config, a corpus, a model or a run"),
    "finetune": ("finetune", "train a model for a task: classes, tags, answers"),
    "predict": ("evaluate", "write a fine-tuned model's answers to a file"),
    "evaluate": ("evaluate", "held-out loss and accuracy beside their baselines"),
    "fill": ("use", "words for the [MASK]s of a sentence, by a BERT"),
    "generate": ("use", "continue a text, by a GPT"),
    "embed": ("use", "vectors of texts, from any layer of any family"),
    "probe": ("probe", "look inside: senses, edge probes, attention"),
    "zeroshot": ("zeroshot", "tasks without training, minimal pairs"),
    "report": ("report", "one page of a run, or of several side by side"),
    "playground": ("playground", "a page on this machine to try a model"),
    "export": ("weights", "weights for other programs, with a parity figure"),
    "import": ("weights", "weights of other programs, with a parity figure"),
    "demo": ("demo", "train a small BERT on shipped novels, and watch three blanks"),
    "recipes": ("recipes", "what can be trained: size, cost, hardware"),
    "doctor": ("doctor", "check an installation: versions, devices, speed, disk"),
    "help": ("help", "a guide on a topic, or the flags of a verb"),
}

# Of several hosts, all others run on the first while the rest wait; see `Where`.
_ON_ALL = {"prepare", "pretrain", "finetune", "doctor"}
_ALONE = {"plan", "launch", "show", "report", "demo", "recipes", "help"}  # no devices
_RESUMED = {"prepare", "pretrain", "finetune", "demo"}  # after an interruption

FINISHED, MISTAKE, TOO_LARGE = 0, 2, 3

_USAGE = """\
jaxlm: text to a pretrained ELMo, BERT, ERNIE or GPT, reproducible from its seed

usage: jaxlm VERB …
jaxlm VERB --help has its flags, jaxlm help the guides.
"""
_EXAMPLES = """
  jaxlm fill shipped:novels "She was very [MASK] to see him."
  jaxlm pretrain bert_modern_tiny --text 'books/*.txt' --workdir runs/mine
"""
_STATUS = (
    "--debug shows the traceback of a mistake. Exit status: 0 finished, 75 stopped by "
    "SIGTERM, Ctrl-C or a lost terminal (run the same command to resume), 2 a mistake "
    "in the command or its input, 3 does not fit in memory, 1 anything else."
)

# Flags of verbs that take less memory if they are smaller.
_SMALLER = dict.fromkeys(("evaluate", "predict", "embed"), "--batch")
_SMALLER |= {"generate": "--max_tokens, --samples or --beams"}

_CLIENTS = {"gcsfs", "aiohttp", "google"}  # packages that speak to buckets
# Refusals of the operating system that only the user can mend, as all those of a file.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_REFUSALS |= {errno.EFBIG, errno.EIO}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    if argv is not None:
        return _run_command(argv)
    end_on_signals(INTERRUPTED)
    status = _run_command(sys.argv[1:])
    end_on_signals(status, done=True)
    return status


def _run_command(argv: list[str]) -> int:
    where = where_runs(argv)
    if is_left_to_first(where):
        return FINISHED
    with running("".join(argv[:1]), where) as command:
        command.status = _run_safely(argv, command)
    return command.status


def where_runs(argv: list[str]) -> Where:
    """On which of several hosts a command runs."""
    verb, *words = argv or ["help"]
    if verb in _ALONE or verb not in VERBS:
        return Where.ALONE
    from jaxlm.cli.arguments import HELP

    if HELP & {*words}:
        return Where.ALONE
    return Where.ALL if verb in _ON_ALL else Where.FIRST


def _run_safely(argv: list[str], command: Command) -> int:
    debug = "--debug" in argv
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Note)
            warnings.showwarning = _notes()
            status = _run([arg for arg in argv if arg != "--debug"])
            sys.stdout.flush()
            command.failed = False
            return status
    except UserError as error:
        wait_if_a_host_is_lost(error)  # a save may have failed by it
        status, message = MISTAKE, str(error)
    except KeyboardInterrupt:
        status, message = INTERRUPTED, "interrupted; run the same command to resume"
    except OSError as error:
        if _is_unheard(error):
            # Keep Python from flushing into what is closed at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return INTERRUPTED if _RESUMED & {*argv[:1]} else FINISHED
        status, message = _of_bucket(error)
        if error.errno in _REFUSALS or error.filename:
            message = f"{error.filename or 'output'}: {error.strerror}"
        if not message:
            raise
    except Exception as error:
        wait_if_a_host_is_lost(error)
        from jaxlm.memory import exhausted

        status, message = _of_bucket(error)
        if exhausted(error):
            first = next(iter(str(error).splitlines()), "")
            status, message = TOO_LARGE, f"does not fit in memory: {first}"
            if smaller := _SMALLER.get(argv[0]):
                message += f"; untried: a smaller {smaller}"
        if not message:
            raise
    if debug:
        traceback.print_exc()
    print(f"jaxlm: {message}", file=sys.stderr)
    return status


def _is_unheard(error: OSError) -> bool:
    """Whether the reader of the output has left: its pipe, or its terminal, is gone."""
    if error.errno != errno.EIO or error.filename:
        return isinstance(error, BrokenPipeError)
    try:
        os.write(1, b"")
    except OSError:
        return True
    return False


def _of_bucket(error: BaseException) -> tuple[int, str]:
    """The status and the line of what a client of buckets raised; no line for other
    errors."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals["__name__"].partition(".")[0] not in _CLIENTS:
        return MISTAKE, ""
    first = next(iter(str(error).splitlines()), "")
    message = f"gs://: {type(error).__name__}: {first}"
    if answers_later(error):
        return INTERRUPTED, f"{message}; the same command resumes"
    return MISTAKE, message


def _notes() -> Callable[..., None]:
    """A function that prints each note once: a file may be read twice."""
    seen: set[str] = set()

    def show(message: Any, *_: Any, **__: Any) -> None:
        if str(message) not in seen:
            print(f"jaxlm: {message}", file=sys.stderr, flush=True)
        seen.add(str(message))

    return show


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        from jaxlm.cli.help import wrapped

        print(wrapped(_USAGE), end="\n\n")
        for verb, (_, what) in VERBS.items():
            print(wrapped(f"  {verb:<10} {what}", 13))
        print(_EXAMPLES, wrapped(_STATUS), sep="\n")
        return FINISHED
    if argv[0] == "--version":
        print(f"jaxlm {jaxlm.__version__}")
        return FINISHED
    verb, *rest = argv
    if verb not in VERBS:
        from jaxlm.config.checks import instead

        raise UserError(f"no verb {verb!r}: {instead(verb, VERBS)}")
    file, _ = VERBS[verb]
    run = getattr(importlib.import_module(f"jaxlm.cli.{file}"), f"run_{verb}")
    try:
        return run(rest)
    except Exception:
        show_errors()
        raise
