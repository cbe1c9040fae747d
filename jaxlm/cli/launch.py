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
from typing import Annotated, Any, Literal, NamedTuple

from jaxlm.cli.arguments import early, parse
from jaxlm.cli.runtime import say
from jaxlm.config.checks import meant
from jaxlm.files import is_remote
from jaxlm.types import UserError

# In a wheel the templates lie inside the package, in a checkout beside it.
_PACKAGE = Path(__file__).resolve().parent.parent
_DIRECTORIES = (_PACKAGE / "_launch", _PACKAGE.parent / "tools" / "launch")


class _Kind(NamedTuple):
    """A generation of TPUs."""

    plan: str  # its name in `jaxlm plan`; empty: not there
    cores: int  # of a chip, as the names of accelerators count them
    gke: str  # cloud.google.com/gke-tpu-accelerator
    machine: str  # of GKE, with the number of chips
    runtime: str  # the image of a TPU VM
    shapes: str


# cloud.google.com: tpu/docs/{v4,v5e,v5p,v6e}, tpu/docs/runtimes, and
# kubernetes-engine/docs/concepts/plan-tpus.
_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBES = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16"
_KINDS = {
    "v5litepod": _Kind(
        "v5e", 1, "tpu-v5-lite-podslice", "ct5lp-hightpu", "v2-alpha-tpuv5-lite", _FLAT
    ),
    "v6e": _Kind("v6e", 1, "tpu-v6e-slice", "ct6e-standard", "v2-alpha-tpuv6e", _FLAT),
    "v5p": _Kind("v5p", 2, "tpu-v5p-slice", "ct5p-hightpu", "v2-alpha-tpuv5", _CUBES),
    "v4": _Kind(
        "", 2, "tpu-v4-podslice", "ct4p-hightpu", "tpu-ubuntu2204-base", _CUBES
    ),
}
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
    install: str = "jaxlm"
    """jaxlm, jaxlm==0.1.0, git+https://…, https://….whl, gs://….whl or, for slurm, a
    wheel's path."""
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


class _Slice(NamedTuple):
    """A slice of TPUs."""

    name: str  # of gcloud
    shape: str
    kind: _Kind
    chips: int

    @property
    def chips_per_host(self) -> int:
        """Chips of a host: 4, or all of a small flat slice."""
        whole = self.chips <= 8 and self.shape.count("x") == 1
        return self.chips if whole else 4

    @property
    def hosts(self) -> int:
        """Hosts of the slice."""
        return self.chips // self.chips_per_host


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
        chips, hosts, values = args.nodes * max(1, args.gpus), args.nodes, _slurm(args)
        plan = ""
    else:
        tpu = _slice(args.accelerator)
        chips, hosts = tpu.chips * args.slices, tpu.hosts * args.slices
        values = _tpu(args, tpu, words)
        several = f"{args.slices}x" * (args.slices > 1)
        plan = f"{several}{tpu.kind.plan}:{tpu.shape}" * bool(tpu.kind.plan)
    notes = _check_command(args, words, chips, hosts, plan)
    made = shlex.join(["jaxlm", "launch", *argv])
    values |= {"made": made, "name": args.name, "words": shlex.join(words)}
    suffix = ".yaml" if args.print == "gke" else ".sh"
    print(_render(args.print + suffix, values), end="")
    for note in notes:
        say(f"jaxlm: {note}")
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
        if plan:
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


def _slice(name: str) -> _Slice:
    """The slice with this name, of gcloud or of `plan`."""
    every: dict[str, _Slice] = {}
    for prefix, kind in _KINDS.items():
        for shape in kind.shapes.split():
            chips = math.prod(map(int, shape.split("x")))
            each = _Slice(f"{prefix}-{chips * kind.cores}", shape, kind, chips)
            every |= {each.name: each, f"{kind.plan or prefix}:{shape}": each}
    if name not in every:
        said = f"no accelerator {name!r}" if name else "launch needs --accelerator"
        near = meant(re.sub(r"^v5e-", "v5litepod-", name), every, " ")
        some = "there are v5litepod-1 to -256, v6e-1 to -256, v5p-8 to -4096, v4-8 …"
        raise UserError(f"{said}:{near} {some}")
    return every[name]


def _install(args: Launch, extras: str, failed: str) -> str:
    """Lines that install jaxlm with its extras as bin/jaxlm."""
    named = re.fullmatch(r"jaxlm(\[[^]]*\])?(.*)", args.install)
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
    if named and args.install[5:6] in ("", *"[=<>~!@ "):
        requirement = f"jaxlm{named[1] or extras}{named[2]}"
    values = {"wheel": wheel, "requirement": shlex.quote(requirement)}
    return _render("install.sh", values | {"failed": failed}).rstrip()


def _slurm(args: Launch) -> dict[str, Any]:
    """What the template for Slurm needs."""
    extras = "[cuda12,gcs]" if args.gpus else "[gcs]"
    gpus = f"\n#SBATCH --gpus-per-node={args.gpus}" if args.gpus else ""
    install = _install(args, extras, "exit 1")
    values = {"nodes": args.nodes, "tasks": max(1, args.gpus), "gpus": gpus}
    return values | {"install": install}


def _tpu(args: Launch, tpu: _Slice, words: list[str]) -> dict[str, Any]:
    """What the templates for TPUs need."""
    account = shlex.quote(args.service_account)
    count = args.slices * tpu.hosts
    values: dict[str, Any] = {"slices": args.slices, "per_slice": tpu.hosts}
    values |= {"topology": tpu.shape, "kind": tpu.kind.gke, "count": count}
    if args.print == "gke":
        script = _render("pod.sh", {"install": _install(args, "[tpu,gcs]", "exit 1")})
        machine = f"{tpu.kind.machine}-{tpu.chips_per_host}t"
        spot = '\n                cloud.google.com/gke-spot: "true"' * args.spot
        named = f"\n{' ' * 14}serviceAccountName: {json.dumps(args.service_account)}"
        # Kubernetes makes one $ of two.
        doubled = [word.replace("$", "$$") for word in words]
        return values | {
            "machine": machine,
            "chips": tpu.chips_per_host,
            "script": textwrap.indent(script.rstrip(), " " * 22),
            "arguments": json.dumps(doubled, ensure_ascii=False),
            "image": json.dumps(args.image),
            "account": named * bool(args.service_account),
            "spot": spot,
        }
    install = _install(args, "[tpu,gcs]", "end 1")
    host = _render("host.sh", {"install": install, "words": shlex.join(words)})
    places = {"--zone": args.zone, "--project": args.project}
    where = [f"{flag}={shlex.quote(value)}" for flag, value in places.items() if value]
    flags = " --spot" * args.spot
    flags += f" --service-account={account}" * bool(args.service_account)
    several, name = args.slices > 1, args.name
    node = f"--node-count={args.slices} --node-prefix={name}" if several else ""
    queued = args.print == "queued"
    gone = "SUSPENDED | FAILED" if queued else "PREEMPTED | TERMINATED"
    ready = "ACTIVE" if queued else "READY"
    follow = _render("follow.sh", {"host": host.rstrip(), "ready": ready, "gone": gone})
    nodes = [f"{name}-{i}" for i in range(args.slices)] if several else [name]
    return values | {
        "hosts": f"{count} host{'s' * (count > 1)} of {tpu.chips * args.slices} chips",
        "accelerator": tpu.name,
        "runtime": tpu.kind.runtime,
        "where": " ".join(where),
        "flags": flags,
        "count": node or f"--node-id={name}",
        "nodes": " ".join(nodes),
        "follow": follow.rstrip(),
    }
