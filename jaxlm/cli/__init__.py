"""`jaxlm VERB …`: import the verb's file, run it, turn mistakes into one line."""

import errno
import importlib
import os
import sys
import traceback

from jaxlm.types import UserError

VERBS = {
    "prepare": "text → tokenizer → corpus",
    "pretrain": "train a model on a corpus, or resume a run",
    "show": "describe a config, a corpus, a model or a run",
    "finetune": "train a model for a task: classes, tags, answers",
    "predict": "write a fine-tuned model's answers to a file",
    "evaluate": "held-out loss and accuracy beside their baselines",
    "fill": "words for the [MASK]s of a sentence, by a BERT",
    "generate": "continue a text, by a GPT",
    "embed": "vectors of texts, from any layer of any family",
    "export": "weights for other programs, with a parity figure",
    "import": "weights of other programs, with a parity figure",
}

FINISHED, OTHER, MISTAKE, TOO_LARGE, INTERRUPTED = 0, 1, 2, 3, 75

_USAGE = """\
jaxlm: text to a pretrained ELMo, BERT, ERNIE or GPT, reproducible from its seed

usage: jaxlm VERB … ; jaxlm VERB --help says more

{verbs}

  jaxlm pretrain bert_tiny --text 'books/*.txt' --workdir runs/tiny
  jaxlm fill runs/tiny "It is a truth [MASK] acknowledged"

--debug shows the traceback of a mistake. Exit status: 0 finished, 75 stopped after
saving (run the same command to resume), 2 a mistake in the command or its input, 3 does
not fit in memory, 1 anything else."""

# Refusals of the operating system that only the user can mend.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        status = _run([arg for arg in argv if arg != "--debug"])
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader has gone; keep Python from flushing into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINISHED
    except (Exception, KeyboardInterrupt) as error:
        status, message = _explained(error)
        if status == OTHER:
            raise
    if debug:
        traceback.print_exc()
    print(f"jaxlm: {message}", file=sys.stderr)
    return status


def _explained(error: BaseException) -> tuple[int, str]:
    """The exit status of an error, and one line about it; `OTHER` has none."""
    match error:
        case UserError():
            return MISTAKE, str(error)
        case OSError() if error.errno in _REFUSALS:
            return MISTAKE, f"{error.filename or 'output'}: {error.strerror}"
        case KeyboardInterrupt():
            return INTERRUPTED, "interrupted; run the same command to resume"
        case MemoryError():
            return TOO_LARGE, f"does not fit in memory: {error}"
    if "RESOURCE_EXHAUSTED" in str(error):  # of the devices, by XLA
        return TOO_LARGE, f"does not fit in memory: {str(error).splitlines()[0]}"
    return OTHER, ""


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_USAGE.format(verbs="\n".join(f"  {v:<10} {VERBS[v]}" for v in VERBS)))
        return FINISHED
    if argv[0] == "--version":
        from jaxlm import __version__

        print(f"jaxlm {__version__}")
        return FINISHED
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        from difflib import get_close_matches

        near = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        raise UserError(f"no verb {verb!r}: {hint}")
    return importlib.import_module(f"jaxlm.cli.{verb}").run(rest)
