"""`jaxlm VERB …`: find the verb, import only its part, turn mistakes into one line."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback

from jaxlm.types import UserError

VERBS = {
    "prepare": "text → tokenizer → corpus",
    "pretrain": "train a model on a corpus, or go on with a run",
    "show": "what a config, a corpus or a run is",
    "finetune": "train a model for a task: classes, tags, answers",
    "predict": "answers of a fine-tuned model to a file",
    "evaluate": "held-out loss and accuracy beside their baselines",
    "fill": "words for the [MASK]s of a sentence, by a BERT",
    "generate": "continue a text, by a GPT",
    "embed": "vectors of texts, any layer of any family",
    "export": "weights for other programs, with a parity figure",
    "import": "weights of other programs, with a parity figure",
}

FINISHED, OTHER, MISTAKE, INTERRUPTED = 0, 1, 2, 75

# What the machine refuses and only its user can mend.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status is in the README."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [arg for arg in argv if arg != "--debug"]
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except UserError as error:
        message = str(error)
    except BrokenPipeError:
        # The reader has gone; keep Python from flushing into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINISHED
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        message = f"{error.filename or 'output'}: {error.strerror}"
    except KeyboardInterrupt:
        print("jaxlm: interrupted; run the same command to go on", file=sys.stderr)
        return INTERRUPTED
    if debug:
        traceback.print_exc()
    print(f"jaxlm: {message}", file=sys.stderr)
    return MISTAKE


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
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


def _usage() -> str:
    verbs = "\n".join(f"  {verb:<10} {what}" for verb, what in VERBS.items())
    return f"""\
jaxlm: text to a pretrained ELMo, BERT, ERNIE or GPT, reproducible from its seed

usage: jaxlm VERB … ; jaxlm VERB --help says more

{verbs}

  jaxlm pretrain bert_tiny --text 'books/*.txt' --workdir runs/tiny
  jaxlm fill runs/tiny "It is a truth [MASK] acknowledged"

--debug shows the traceback of a mistake. Exit status: 0 finished, 75 stopped after
saving (run the same command to go on), 2 a mistake in the command or its input, 3 will
not fit, 1 anything else."""
