"""`jaxlm launch --print gke … -- pretrain …`: a script that starts a run on many hosts.

The templates are in `tools/launch/`, with a guide. Nothing is started from here.
"""

import json
import math
import re
import shlex
import string
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxlm.cli.arguments import early, parse
from jaxlm.cli.runtime import say
from jaxlm.config.checks import meant
from jaxlm.files import is_remote
from jaxlm.types import UserError

# In a wheel the templates lie inside the package, in a checkout beside it.
_PACKAGE = Path(__file__).resolve().parent.parent
_DIRECTORIES = (_PACKAGE / "_launch", _PACKAGE.parent / "tools" / "launch")


# Generations of TPUs: the name of gcloud, that of `jaxlm plan`, the number that gcloud
# counts for a chip, GKE's accelerator and machine, the image of a TPU VM, topologies.
# cloud.google.com: tpu/docs/{v4,v5e,v5p,v6e}, tpu/docs/runtimes and
# kubernetes-engine/docs/concepts/plan-tpus.
_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBES = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16"
_TPUS = f"""
v5litepod v5e 1 tpu-v5-lite-podslice ct5lp-hightpu v2-alpha-tpuv5-lite {_FLAT}
v6e v6e 1 tpu-v6e-slice ct6e-standard v2-alpha-tpuv6e {_FLAT}
v5p v5p 2 tpu-v5p-slice ct5p-hightpu v2-alpha-tpuv5 {_CUBES}
v4 v4 2 tpu-v4-podslice ct4p-hightpu tpu-ubuntu2204-base {_CUBES}"""
_VERBS = ("pretrain", "finetune")

# The flags of each target, beside --print, --name and --install.
_TPU = ("accelerator", "zone", "project", "spot", "service_account")
_FLAGS = {
    "tpu-vm": _TPU,
    "queued": (*_TPU, "slices"),
    "gke": ("accelerator", "slices", "spot", "service_account", "image"),
    "slurm": ("nodes", "gpus"),
}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Print a script or manifest that installs jaxlm on all hosts of a machine, runs
    the command after -- and, after a preemption, goes on. It starts nothing itself."""

    print: Literal["tpu-vm", "queued", "gke", "slurm"]
    """tpu-vm: one TPU slice; queued: slices by a queued resource, queued for anew after
    a preemption; gke: a JobSet for Kubernetes; slurm: a batch script."""
    name: str = "jaxlm"
    """Of the TPU, JobSet or job, and of the directory on the hosts."""
    install: str
    """git+https://…, https://….whl, gs://….whl, jaxlm==0.1.0 from a package index or,
    for slurm, a wheel's path."""
    accelerator: str = ""
    """A slice, as gcloud or `jaxlm plan` names it: v5litepod-256 or v5e:16x16."""
    slices: Annotated[int, "[1, inf)"] = 1
    """Number of slices that train together."""
    zone: str = ""
    """Empty: the zone of gcloud's configuration."""
    project: str = ""
    """Empty: the project of gcloud's configuration."""
    spot: bool = False
    """Spot capacity: cheap, and preempted at times."""
    service_account: str = ""
    """An account that may use the bucket: an email address; in gke, Kubernetes' name.
    Empty: the default account."""
    image: str = "ghcr.io/astral-sh/uv:python3.12-bookworm"
    """A container with bash, git and uv or curl."""
    nodes: Annotated[int, "[1, inf)"] = 1
    """Number of nodes."""
    gpus: Annotated[int, "[0, inf)"] = 0
    """GPUs of a node, each with a process; 0: one process a node."""


class _Template(string.Template):
    delimiter = "@@"


def run_launch(argv: list[str]) -> int:
    """The verb `launch`."""
    own, words = argv, []
    if "--" in argv:
        own, words = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    elif verbs := set(_VERBS) & set(argv):
        raise UserError(f"put -- before the command: jaxlm launch … -- {verbs.pop()} …")
    args = parse(Launch, own)
    _check(args, words)
    if args.print == "slurm":
        plan, chips, hosts = "", args.nodes * max(1, args.gpus), args.nodes
        gpus = f"\n#SBATCH --gpus-per-node={args.gpus}" * bool(args.gpus)
        values: dict[str, Any] = {"gpus": gpus, "tasks": max(1, args.gpus)}
        values |= _install(args, "[cuda12,gcs]" if args.gpus else "[gcs]")
    else:
        values = _slice(args.accelerator)
        hosts = args.slices * values["per_slice"]
        chips = hosts * values["chips"]
        plan = f"{args.slices}x{values['plan']}".removeprefix("1x")
        values |= _install(args, "[tpu,gcs]")
    notes = _check_command(args, words, chips, hosts, plan)
    values |= {"made": shlex.join(["jaxlm", "launch", *argv]), "name": args.name}
    values |= {"words": shlex.join(words), "count": hosts}
    if args.print != "slurm":
        values |= _tpu(args, words, values)
    suffix = ".yaml" if args.print == "gke" else ".sh"
    print(_render(args.print + suffix, values), end="")
    say(*(f"jaxlm: {note}" for note in notes))
    return 0


def _render(file: str, values: dict[str, Any]) -> str:
    found = [each / file for each in _DIRECTORIES if (each / file).is_file()]
    return _Template(found[0].read_text("utf-8")).substitute(values)


def _check(args: Launch, words: list[str]) -> None:
    """Raise a UserError for values that no script can carry, and for idle flags."""
    allowed = {"print", "name", "install", *_FLAGS[args.print]}
    for field in fields(args):
        value = getattr(args, field.name)
        if value != field.default and field.name not in allowed:
            raise UserError(f"--{field.name} has no effect with --print {args.print}")
        _printable(str(value), f"--{field.name}")
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", args.name):
        rule = "up to 40 of a-z, 0-9 and -, from a letter to a letter or digit"
        raise UserError(f"--name {args.name!r} is not a name of a machine: {rule}")
    if args.zone and not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", args.zone):
        raise UserError(f"--zone {args.zone!r} is no zone, such as us-west4-a")
    if not words or words[0] not in _VERBS:
        what = f"not {words[0]!r}" if words else "after --: -- pretrain bert_base …"
        raise UserError(f"launch runs {' or '.join(_VERBS)}, {what}")
    for word in words:
        _printable(word, "the command")


def _printable(text: str, where: str) -> None:
    if bad := re.search(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff]", text):
        raise UserError(
            f"{where} has the character {bad[0]!a}, which a script may lose"
        )


def _check_command(
    args: Launch, words: list[str], chips: int, hosts: int, plan: str
) -> list[str]:
    """Notes on the command; UserError if the verb would refuse it at once."""
    verb, *rest = words
    workdir, fork = early(rest, workdir="", fork="")
    corpus, status = early(rest, corpus="", preempted_exit="75")
    if not workdir:
        raise UserError(f"the command needs --workdir: -- {verb} … --workdir gs://…")
    if status != "75":
        raise UserError(f"--preempted_exit {status} hides that a run was preempted")
    notes = []
    if verb == "pretrain" and not fork:
        from jaxlm.cli.pretrain import Pretrain
        from jaxlm.sharding import abstract_mesh, check_batch

        config = parse(Pretrain, rest).config
        check_batch(config, abstract_mesh(config.mesh, chips))
        if plan and "v4" not in plan:
            notes += [f"memory and cost: jaxlm plan {rest[0]} --topology {plan}"]
    if args.print == "slurm":
        return notes
    for flag, path in (("--workdir", workdir), ("--corpus", corpus)):
        if path and not is_remote(path):
            why = f"{hosts} hosts need" if hosts > 1 else "a machine that goes needs"
            notes += [f"{flag} {path} is not on gs://: {why} a disk that is shared"]
    for word in rest[1:] + [x for x in rest[:1] if x.endswith(".py")]:
        if word not in (workdir, corpus) and Path(word).exists():
            notes += [f"{word} is here; the hosts need it at the same path"]
    return notes


def _slice(name: str) -> dict[str, Any]:
    """What the templates say of a slice, by its name of gcloud or of `plan`."""
    every: dict[str, dict[str, Any]] = {}
    for line in _TPUS.split("\n")[1:]:
        prefix, plan, cores, gke, machine, runtime, *shapes = line.split()
        for shape in shapes:
            size = math.prod(map(int, shape.split("x")))
            # A host has 4 chips, or all of a small flat slice.
            chips = size if size <= 8 and shape.count("x") == 1 else 4
            accelerator = f"{prefix}-{size * int(cores)}"
            each: dict[str, Any] = {
                "accelerator": accelerator,
                "topology": shape,
                "kind": gke,
            }
            each |= {"machine": machine, "runtime": runtime, "plan": f"{plan}:{shape}"}
            each |= {"chips": chips, "per_slice": size // chips}
            every |= {accelerator: each, each["plan"]: each}
    if name not in every:
        said = f"no accelerator {name!r}" if name else "launch needs --accelerator"
        near = meant(re.sub(r"^v5e-", "v5litepod-", name), every, " ")
        some = "there are v5litepod-1 to -256, v6e-1 to -256, v5p-8 to -4096, v4-8 …"
        raise UserError(f"{said}:{near} {some}")
    return dict(every[name])


def _install(args: Launch, extras: str) -> dict[str, str]:
    """A function of the shell that installs jaxlm, with extras, as bin/jaxlm."""
    named = re.fullmatch(r"jaxlm(\[[\w,-]*\])?(([=<>~!]=?| @).*)?", args.install)
    what, wheel = args.install, ":"
    file = what.rpartition("/")[2]
    if is_remote(what):
        get = 'import sys, fsspec; fsspec.filesystem("gs").get(*sys.argv[1:])'
        command = ["uv", "run", "--no-project", "--python", "3.12", "--with", "gcsfs"]
        wheel = shlex.join([*command, "python", "-c", get, what, file])
        what = f"./{file}"
    elif what.endswith(".whl") and "://" not in what:
        if args.print != "slurm":
            remedy = f"gcloud storage cp {shlex.quote(what)} gs://BUCKET/"
            raise UserError(f"--install {what}: hosts read wheels from gs://: {remedy}")
        what = str(Path(what).resolve())
    elif not named and not re.match(r"git\+\w+://|https://.*\.whl", what):
        raise UserError(
            f"--install {what!r} is none of jaxlm, jaxlm==VERSION, git+https://…, "
            "https://….whl, gs://….whl"
        )
    requirement = f"jaxlm{extras} @ {what}"
    if named:
        requirement = f"jaxlm{named[1] or extras}{named[2] or ''}"
    values = {"wheel": wheel, "requirement": shlex.quote(requirement)}
    return {"install": _render("install.sh", values).rstrip()}


def _tpu(args: Launch, words: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """What else the templates for TPUs need."""
    queued, several, name = args.print == "queued", args.slices > 1, args.name
    gone = "SUSPENDED | FAILED" if queued else "PREEMPTED | TERMINATED"
    inner = values | {"gone": gone, "ready": "ACTIVE" if queued else "READY"}
    inner["host"] = _render("host.sh", inner).rstrip()
    places = {"--zone": args.zone, "--project": args.project}
    where = [f"{flag}={shlex.quote(value)}" for flag, value in places.items() if value]
    flags = " --spot" * args.spot
    if account := args.service_account:
        flags += f" --service-account={shlex.quote(account)}"
    node = f"--node-count={args.slices} --node-prefix={name}"
    # Kubernetes makes one $ of two.
    doubled = [word.replace("$", "$$") for word in words]
    script = _render("pod.sh", values).rstrip()
    return {
        "hosts": f"{args.slices * values['per_slice']} host(s)",
        "follow": _render("follow.sh", inner).rstrip(),
        "where": " ".join(where),
        "flags": flags,
        "node": node if several else f"--node-id={name}",
        "nodes": " ".join(f"{name}-{i}" for i in range(args.slices) if several) or name,
        "slices": args.slices,
        "script": textwrap.indent(script, " " * 22),
        "arguments": json.dumps(doubled, ensure_ascii=False),
        "account": f"\n{' ' * 14}serviceAccountName: {json.dumps(account)}"
        * bool(account),
        "spot": f'\n{" " * 16}cloud.google.com/gke-spot: "true"' * args.spot,
        "image": json.dumps(args.image),
    }
