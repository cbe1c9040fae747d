"""Every call in jaxlm checked: types by beartype, and shapes by jaxtyping.

jaxtyping's own hook adds 7 µs to every call, beartype .3; so only functions that name
shapes, or types imported for annotations alone, go through jaxtyping here.
"""

import ast
import dataclasses
import functools
import sys
import typing
from importlib.machinery import PathFinder, SourceFileLoader

import jaxtyping
from beartype import beartype

on = True
# Code → whether all its annotations are known, and none names a shape.
_plain: dict[typing.Any, bool] = {}


def checked(it: typing.Any) -> typing.Any:
    """The function, or the class with the function that makes it, with checks."""
    if isinstance(it, type):
        if dataclasses.is_dataclass(it) and not hasattr(it.__init__, "__wrapped__"):
            it.__init__ = checked(it.__init__)
        return it
    if not it.__annotations__:
        return it
    if it.__code__ not in _plain:
        _plain[it.__code__] = _is_plain(it)
    if not _plain[it.__code__]:
        return jaxtyping.jaxtyped(it, typechecker=beartype)
    strict = beartype(it)

    @functools.wraps(it)
    def call(*args, **kwargs):
        return (strict if on else it)(*args, **kwargs)

    return call


def _is_plain(function: typing.Any) -> bool:
    try:
        return "jaxtyping" not in str(typing.get_type_hints(function))
    except Exception:
        return False


class _Decorate(ast.NodeTransformer):
    decorator = ast.parse("__import__('checked').checked", mode="eval").body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list.append(self.decorator)  # innermost: a jit takes numpy's
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, self.decorator)
        return self.generic_visit(node)


class _Loader(SourceFileLoader):
    def get_code(self, fullname):
        tree = _Decorate().visit(ast.parse(self.get_data(self.path)))
        tree = ast.fix_missing_locations(tree)
        return compile(tree, self.path, "exec", dont_inherit=True)


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target)
        if name.split(".")[0] == "jaxlm" and spec and spec.has_location:
            spec.loader = _Loader(name, spec.origin)
            return spec
        return None


def install() -> None:
    """Check the calls of all modules of jaxlm, which are imported after this."""
    assert "jaxlm" not in sys.modules
    sys.meta_path.insert(0, _Finder)
