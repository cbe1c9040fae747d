"""The flags of a verb: its dataclass → names, types and lines of help.

    flags_of(Fill, default)      [Flag("directory", …), Flag("top_k", "INT", …)]

Nothing here imports tyro's parser, so that `--help` is instant.
"""

import ast
import dataclasses
import functools
import inspect
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from jaxlm.cli.help import guides
from jaxlm.config.checks import instead, meant
from jaxlm.config.idle import foreign, idle
from jaxlm.types import UserError

_POSITIONAL = tyro.conf.Positional[str].__metadata__[0]  # type: ignore[attr-defined]
_TAKES = {int: "INT", float: "NUMBER", str: "TEXT", bool: "{true,false}"}
_PLACES = dict.fromkeys(("workdir", "corpus", "init", "cache"), "DIR")
_PLACES |= dict.fromkeys(("text", "data", "dev", "out", "lexicon"), "FILE")
_MANY = 25  # flags, of which `--help` shows the usual ones
# The flags that people use, of the verbs that have many.
_USUAL = {
    "Prepare": "text corpus tokenizer holdout sentences errors field spans lexicon "
    "processes smoothing model.vocab_size text.language text.lowercase text.chinese",
    "Pretrain": "text corpus workdir holdout tokenizer spans init fork seed steps stop "
    "batch length accumulate save_every keep_every eval_every log.every precision "
    "optim.name optim.peak optim.warmup model.vocab_size model.num_layers "
    "model.d_model mesh.fsdp",
    "Finetune": "data dev transfer workdir init seeds seed batch length eval_every "
    "precision optim.peak task.text task.pair task.label task.metric task.epochs "
    "task.limit task.patience task.head_std task.layer_decay task.freeze task.pooling",
    "Plan": "topology advice json steps batch length accumulate precision remat "
    "attention optim.name model.num_layers model.d_model mesh.data mesh.fsdp "
    "mesh.tensor",
}

# A flag (the first of several that the verb has), then what others call it.
_MEANINGS = """
optim.peak: lr learning_rate max_lr base_lr peak_lr initial_lr rate
task.epochs steps: epochs num_epochs num_train_epochs n_epochs max_epochs train_epochs
steps task.epochs: max_steps train_steps num_train_steps num_steps n_steps total_steps
    iterations max_iters num_iterations updates total_num_update
batch: batch_size bs train_batch_size per_device_train_batch_size global_batch_size
    per_device_eval_batch_size eval_batch_size micro_batch_size num_rows
length: max_seq_length max_seq_len seq_len seq_length sequence_length max_len block_size
    context_length max_length n_ctx max_position_embeddings
workdir out: output_dir out_dir output output_path save_dir run_dir model_dir log_dir
    logdir checkpoint_dir ckpt_dir run o
data text: train_file train_data dataset input input_file file corpus_file train
    train_path data_dir data_path validation_file files dataset_name
dev holdout: dev_file eval_file valid validation val dev_data test_size
    validation_split eval_fraction
init directory: model_name_or_path pretrained pretrained_model checkpoint ckpt load
    from_pretrained base_model resume_from weights init_checkpoint
accumulate: gradient_accumulation_steps grad_accum accumulation_steps grad_acc_steps
precision: fp16 bf16 mixed_precision amp dtype half use_amp
remat: gradient_checkpointing checkpoint_activations activation_checkpointing
optim.warmup: warmup_steps warmup_ratio num_warmup_steps warmup_proportion warmup_iters
optim.name: optimizer optimiser optim
optim.decay: lr_scheduler_type scheduler lr_decay schedule lr_scheduler
optim.weight_decay: wd decay_rate l2
optim.clip: max_grad_norm grad_clip clip_grad_norm gradient_clip
optim.b1: adam_beta1 beta1
optim.b2: adam_beta2 beta2
optim.eps: adam_epsilon epsilon
model.num_layers: n_layer n_layers num_hidden_layers layers depth
model.num_heads: n_head n_heads num_attention_heads heads
model.d_model: n_embd hidden_size embed_dim hidden dim embedding_size width
model.d_ff: intermediate_size ffn_dim n_inner mlp_dim
model.vocab_size: vocabulary_size vocabulary n_vocab
model.dropout task.dropout: dropout_rate hidden_dropout_prob dropout
data.mask_rate: mlm_probability masked_lm_prob mask_prob mask_probability
predictions: max_predictions_per_seq max_predictions
text.lowercase: do_lower_case lowercase uncased lower
tokenizer: vocab vocab_file tokenizer_name tokenizer_file tokenizer_path
save_every: save_steps save_interval checkpoint_every save_freq
eval_every: eval_steps eval_interval evaluation_steps validate_every eval_freq
log.every: logging_steps log_interval log_every log_freq
keep: save_total_limit max_to_keep
seeds seed: random_seed random_state num_seeds
mesh.data: num_gpus gpus devices n_gpu num_devices tpu_cores world_size
hosts: num_hosts nodes num_nodes nnodes
processes: workers num_workers num_proc jobs
max_tokens: max_new_tokens num_tokens length max_length n_tokens
samples: num_samples num_return_sequences n
beams: num_beams beam_size beam
temperature: temp t
prompt: text input_text
top_k: k topk
top_p: p topp nucleus
task.text: text_column sentence1_key text_field
task.label: label_column label_field target labels
task.layer_decay: layerwise_lr_decay llrd
task.patience: early_stopping early_stopping_patience
pooling: pool
layers: layer
fallback: ignore_errors
verify: check
to: format
"""

# The same for values of choices.
_VALUES = {
    "huggingface": "hf",
    "transformers": "hf",
    "pytorch": "hf",
    "llama.cpp": "gguf",
}
_VALUES |= {"safetensors": "hf", "onnxruntime": "onnx", "allennlp": "elmo"}
_VALUES |= {"bf16": "bfloat16", "fp16": "bfloat16", "fp32": "float32", "adam": "adamw"}


class Flag(NamedTuple):
    """One argument of a verb."""

    name: str  # dotted, without the two hyphens
    takes: str
    default: Any
    what: str
    kind: Any
    positional: bool = False

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return isinstance(self.default, type(tyro.MISSING))

    @property
    def label(self) -> str:
        """The flag with what it takes."""
        name = self.name.upper() if self.positional else f"--{self.name}"
        return name if self.positional else f"{name} {self.takes}"

    @property
    def said(self) -> str:
        """What it is for, in one sentence, for messages."""
        first = re.split(r"(?<=[a-z0-9)])[.;:] ", self.what, maxsplit=1)[0]
        return first.rstrip(".")


def flags_of(kind: Any, default: Any, at: str = "") -> Iterator[Flag]:
    """All flags of a dataclass; `default` has the values of its fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, value = hints[field.name], getattr(default, field.name)
        notes = getattr(hint, "__metadata__", ())
        own = (each for note in notes if (each := getattr(note, "name", None)))
        name = at + next(own, field.name)
        if dataclasses.is_dataclass(value):
            flat = any(getattr(note, "name", None) == "" for note in notes)
            yield from flags_of(type(value), value, at if flat else f"{name}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for i, each in enumerate(value):
                yield from flags_of(type(each), each, f"{name}.{i}.")
        else:
            args = typing.get_args(hint)
            if typing.get_origin(hint) is typing.Literal and len(args) == 1:
                continue  # which dataclass this is, in JSON
            if args and dataclasses.is_dataclass(args[0]):
                continue  # a recipe without phases
            what = _documented(kind, field.name)
            places = what, hint, _POSITIONAL in notes
            yield Flag(name, _takes(hint, _PLACES.get(name, "TEXT")), value, *places)


def refuse_unknown(argv: Sequence[str], flags: Sequence[Flag], verb: str) -> None:
    """UserError for a flag that the verb lacks, with the one that may be meant, and for
    a required one that is not given."""
    known = {flag.name: flag for flag in flags if not flag.positional}
    for arg in argv:
        name = arg[2:].partition("=")[0].replace("-", "_")
        if arg[:2] != "--" or name in known or not re.fullmatch(r"[A-Za-z].*", name):
            continue
        near = _meant(name, known)
        hint = f"see jaxlm {verb} --help"
        if near:
            hint = f"did you mean {near.label}? ({near.said})"
        raise UserError(f"{verb} has no flag --{name}: {hint}")
    given = {arg[2:].partition("=")[0].replace("-", "_") for arg in argv}
    for flag in known.values():
        if flag.required and flag.name not in given:
            raise UserError(f"{verb} needs {flag.label}: {flag.said}")


def mistake_in(said: str, argv: Sequence[str], flags: Iterable[Flag], verb: str) -> str:
    """A parser's message in our words, with the values that may stand."""
    named = re.search(r"(?:argument '|parsing )(?:--)?([\w.-]+)", said)
    name = named[1].replace("-", "_") if named else ""
    flag = next((flag for flag in flags if flag.name == name), None)
    if flag is None or flag.positional:
        extra = re.search(r"Unrecognized options: (.*)", said)
        usage = usage_of(verb, flags)
        if extra:
            return f"too many words: {extra[1].strip()}; {usage}"
        missing = [each for each in flags if each.positional and each.required]
        if missing:
            return f"{verb} needs {missing[0].label}: {usage}"
        return said
    words = re.findall(r"'([^']*)'", said.partition(name)[2])
    given = _value(argv, flag.name)
    choices = re.findall(r"[^{,}|]+", flag.takes) if "{" in flag.takes else []
    if given is None:
        return f"--{flag.name} needs a value: {flag.takes}"
    given = next((word for word in given if word in words), given[0])
    if flag.takes == "{true,false}":
        return f"--{flag.name} {given!r} is neither true nor false"
    if choices:
        meaning = _VALUES.get(given.lower())
        near = instead(meaning if meaning in choices else given, choices)
        return f"--{flag.name} {given!r}: {near}"
    kind = {"INT": "a whole number", "NUMBER": "a number"}.get(
        flag.takes.removesuffix(" …"), flag.takes
    )
    return f"--{flag.name} {given!r} is not {kind}"


def print_help(
    kind: Any, flags: Sequence[Flag], verb: str, config: Any, *, every: bool
) -> None:
    """Print the flags of a verb; unless `every`, those that people use.

    With a `config` of the user's choice, flags that it would refuse are left out.
    """
    refused = {**foreign(config), **idle(config)} if config else {}
    shown = [f for f in flags if not _is_refused(f, refused)]
    usual = _USUAL.get(kind.__name__, "").split()
    fewer = bool(usual) and not every and len(shown) > _MANY
    if fewer:
        shown = [f for f in shown if f.name in usual or f.required]
        shown.sort(key=lambda f: usual.index(f.name) if f.name in usual else -1)
    width = min(max(shutil.get_terminal_size().columns, 40), 100)
    for text in (usage_of(verb, flags), " ".join((kind.__doc__ or "").split())):
        print(textwrap.fill(text, width), end="\n\n")
    if example := example_of(verb):
        print(f"  {example}\n")
    required = [f for f in shown if f.required]
    others = [f for f in shown if not f.required]
    recipe = takes_config(flags)
    if recipe:
        print("needed:")
        _print_lines("CONFIG", "A recipe's name (see jaxlm recipes) or file.", width)
    elif required:
        print("needed:")
    for flag in required:
        _print_flag(flag, width)
    print("\nflags:" if required or recipe else "flags:")
    for flag in others:
        _print_flag(flag, width)
    notes = [f"jaxlm {verb} --help-all: all {len(flags)} flags."] * fewer
    if recipe and not config:
        notes.append(f"jaxlm {verb} CONFIG --help: those of a recipe, its values.")
    elif refused:
        notes.append("Flags that would change nothing with this config are left out.")
    if notes:
        print("", *notes, sep="\n")


def takes_config(flags: Iterable[Flag]) -> bool:
    """Whether these are flags of a verb whose first word is a recipe."""
    return any(flag.name == "optim.peak" for flag in flags)


def usage_of(verb: str, flags: Iterable[Flag]) -> str:
    """How a verb is called."""
    flags = list(flags)
    config = ["CONFIG"] * takes_config(flags)
    places = [flag for flag in flags if flag.positional]
    words = [f.name.upper() + " …" * f.takes.endswith("…") for f in places]
    words += [f.label for f in flags if f.required and not f.positional]
    return " ".join(["usage: jaxlm", verb, *config, *words, "[flags]"])


def example_of(verb: str) -> str:
    """The shortest command of a verb in the guides."""
    found = []
    for path in guides().values():
        shown = rf"^    (jaxlm {verb} [ -~]*)$"
        found += re.findall(shown, path.read_text("utf-8"), re.MULTILINE)
    return min((" ".join(each.split()) for each in found), key=len, default="")


def _print_flag(flag: Flag, width: int) -> None:
    value = flag.default
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    elif isinstance(value, bool):
        value = str(value).lower()
    empty = flag.required or value in ("", None)
    said = flag.what + ("" if empty else f" [{value}]")
    _print_lines(flag.label, said, width)


def _print_lines(label: str, said: str, width: int) -> None:
    lines, label = textwrap.wrap(said, width - 24) or [""], f"  {label}"
    if len(label) > 22:
        print(label)
    else:
        print(f"{label:<24}{lines.pop(0)}")
    for line in lines:
        print(" " * 24 + line)


def _is_refused(flag: Flag, refused: dict[str, str]) -> bool:
    parts = flag.name.split(".")
    return any(".".join(parts[: n + 1]) in refused for n in range(len(parts)))


def _value(argv: Sequence[str], name: str) -> list[str] | None:
    """The words that a user gave to a flag, or None if there is none."""
    for i, arg in enumerate(argv):
        flag, equals, value = arg.partition("=")
        if flag[:2] == "--" and flag[2:].replace("-", "_") == name:
            words = [value] if equals else []
            for word in argv[i + 1 :] if not equals else []:
                if word.startswith("--"):
                    break
                words.append(word)
            return words or None
    return None


def _meant(name: str, known: dict[str, Flag]) -> Flag | None:
    """The flag that a user may mean: by its meaning, its last part, its spelling."""
    last = name.rsplit(".", 1)[-1].lower()
    for flag in _others().get(last, ()):
        if flag in known:
            return known[flag]
    for each in known:
        if each.rsplit(".", 1)[-1] == last:
            return known[each]
    near = meant(name, known).removeprefix("did you mean ").removesuffix("?")
    return known.get(near)


@functools.cache
def _others() -> dict[str, list[str]]:
    """A name that others use → our flags of that meaning."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\n +", " ", _MEANINGS).strip().splitlines():
        flags, _, names = line.partition(":")
        for name in names.split():
            found.setdefault(name, []).extend(flags.split())
    return found


def _takes(hint: Any, text: str = "TEXT") -> str:
    """What a flag takes, in capitals or as choices; `text` stands for a string."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _takes(args[0], text)
    if origin is tuple:
        return f"{_takes(args[0], text)} …"
    if origin is typing.Literal:
        return "{" + ",".join(str(each) for each in args if each != "") + "}"
    if args:
        each = [_takes(arg, text) for arg in args]
        return "NUMBER" if set(each) == {"INT", "NUMBER"} else "|".join(each)
    return {**_TAKES, str: text}.get(hint, text)


def _documented(kind: Any, field: str) -> str:
    """The lines below a field of a dataclass, or of the one that it inherits from."""
    for each in kind.__mro__:
        found = _documents(each.__module__).get(each.__name__, {})
        if field in found:
            return found[field]
    return ""


@functools.cache
def _documents(module: str) -> dict[str, dict[str, str]]:
    """Class → field → the string below the field, of a module's source."""
    try:
        source = Path(inspect.getfile(sys.modules[module])).read_text("utf-8")
    except (TypeError, OSError, KeyError):
        return {}
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = found.setdefault(node.name, {})
        for field, text in zip(node.body, node.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(said))),
                ):
                    texts[name] = " ".join(said.split())
    return found
