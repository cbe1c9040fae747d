"""Look inside a model: `jaxlm probe senses|edge|weights|attention DIR …`."""

from importlib import import_module

from jaxlm.config.checks import instead
from jaxlm.types import UserError

_KINDS = ("senses", "edge", "weights", "attention")


def run_probe(argv: list[str]) -> int:
    """The verb `probe`: `run_probe_KIND` of `probe_KIND.py` does the work."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: jaxlm probe {{{','.join(_KINDS)}}} DIRECTORY …, or with --help")
        return 0
    kind = argv[0]
    if kind not in _KINDS:
        raise UserError(f"no probe {kind!r}: {instead(kind, _KINDS)}")
    module = import_module(f"jaxlm.cli.probe_{kind}")
    return getattr(module, f"run_probe_{kind}")(argv[1:])
