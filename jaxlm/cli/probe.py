"""Look inside a model: `jaxlm probe senses|edge|weights|attention DIR …`."""

from importlib import import_module

from jaxlm.cli.arguments import HELP
from jaxlm.config.checks import instead
from jaxlm.types import UserError

_KINDS = {
    "senses": "which uses of a word are near, in each layer",
    "edge": "what each layer knows of parts of speech, entities, dependencies …",
    "weights": "what each layer is worth to tasks that mix them",
    "attention": "where each head looks in a text",
}
_HELP = """\
usage: jaxlm probe KIND DIRECTORY … [flags]

Look inside a model. jaxlm probe KIND --help has the flags, jaxlm help probing a guide.

{kinds}

  jaxlm probe senses runs/modern --word bank --text bank.txt --out bank.html"""


def run_probe(argv: list[str]) -> int:
    """The verb `probe`: `run_probe_KIND` of `probe_KIND.py` does the work."""
    if not argv or argv[0] in HELP:
        kinds = (f"  {kind:<10} {what}" for kind, what in _KINDS.items())
        print(_HELP.format(kinds="\n".join(kinds)))
        return 0
    kind = argv[0]
    if kind not in _KINDS:
        raise UserError(f"no probe {kind!r}: {instead(kind, _KINDS)}")
    module = import_module(f"jaxlm.cli.probe_{kind}")
    return getattr(module, f"run_probe_{kind}")(argv[1:])
