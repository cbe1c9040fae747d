"""`jaxlm doctor`: whether an installation works, what it runs on, and what it lacks."""

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxlm
from jaxlm.cli.arguments import parse
from jaxlm.cli.runtime import start_jax
from jaxlm.types import UserError

_VERSIONS = "jax jaxlib flax optax orbax-checkpoint tokenizers numpy"
_TPU = ("/dev/accel0", "/dev/vfio/0")
_NO_USER_S = {"test", "oracles"}  # extras of those who work on jaxlm


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Versions, devices and their speed, memory, disk, compile cache, optional clients,
    access to gs:// and the hosts of a job."""

    workdir: str = "."
    """Where runs will be: its disk is looked at; or gs://BUCKET."""
    hosts: str = "auto"
    """Number of hosts that must join; auto: as the launcher says; off: this one."""


def run_doctor(argv: list[str]) -> int:
    """The verb `doctor`: 0 if a run can begin here, else 1."""
    args = parse(Doctor, argv)
    sound = True
    for what, look in _LOOKS.items():
        try:
            for line in look(args):
                print(f"{what:<9} {line}", flush=True)
                what = ""
        except (UserError, RuntimeError) as error:  # jax raises the latter
            sound = False
            print(f"{what:<9} FAILS: {' '.join(str(error).split())}", flush=True)
    return 0 if sound else 1


def _versions(args: Doctor) -> Iterator[str]:
    yield f"jaxlm {jaxlm.__version__} in {Path(jaxlm.__file__).parent}"
    yield f"Python {platform.python_version()}, {platform.platform()}"
    version = importlib.metadata.version
    yield ", ".join(f"{name} {version(name)}" for name in _VERSIONS.split())


def _hosts(args: Doctor) -> Iterator[str]:
    start_jax(hosts=args.hosts)
    import jax

    yield f"{jax.process_count()} joined, this is host {jax.process_index()}"


def _devices(args: Doctor) -> Iterator[str]:
    import jax

    here = jax.local_devices()
    yield f"{len(here)} × {here[0].device_kind} ({here[0].platform}) on this host"
    if here[0].platform == "cpu" and shutil.which("nvidia-smi"):
        yield 'jax does not see the GPU of nvidia-smi: pip install "jaxlm[cuda13]"'
    if here[0].platform == "cpu" and any(map(os.path.exists, _TPU)):
        yield 'jax does not see the TPU of this host: pip install "jaxlm[tpu]"'
    for kind in ("float32", "bfloat16"):
        yield f"a product of matrices in {kind}: {_speed(here[0], kind):,.0f} GFLOP/s"


def _speed(device: Any, kind: str) -> float:
    """GFLOP/s of a product of two square matrices, the best of three."""
    import jax
    import jax.numpy as jnp

    size = 1024 if device.platform == "cpu" else 8192
    a = jax.device_put(jnp.ones((size, size), kind), device)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()  # compiles
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds) / 1e9


def _memory(args: Doctor) -> Iterator[str]:
    from jaxlm.train.fits import device_bytes

    cores = len(os.sched_getaffinity(0))
    pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    yield f"{pages * size / 1e9:.1f} GB free on the host, {cores} cores"
    if limit := device_bytes():
        yield f"{limit / 1e9:.1f} GB for jax on a device"


def _disk(args: Doctor) -> Iterator[str]:
    from jaxlm.files import is_remote, place

    if is_remote(args.workdir):
        here = place(args.workdir)  # or an error that says what is missing
        yield f"{here} can be listed"
        return
    here = Path(args.workdir).absolute()
    here = next(each for each in (here, *here.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        raise UserError(f"{here} cannot be written: {error.strerror}") from None
    yield f"{shutil.disk_usage(here).free / 1e9:.1f} GB free in {here}"


def _cache(args: Doctor) -> Iterator[str]:
    import jax

    path = Path(jax.config.values["jax_compilation_cache_dir"])
    files = [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files) / 1e6
    yield f"{path}: {len(files)} are kept, {size:,.0f} MB"


def _optional(args: Doctor) -> Iterator[str]:
    extras: dict[str, list[str]] = {}
    lacking: dict[str, list[str]] = {}
    for needed in importlib.metadata.requires("jaxlm") or ():
        extra = re.search(r"extra == .(\w+)", needed)
        name = re.split(r"[^\w.-]", needed)[0]
        if extra and "[" not in needed and extra[1] not in _NO_USER_S:
            there = _installed(name)
            (extras if there else lacking).setdefault(extra[1], []).append(name)
    complete = sorted(extras.keys() - lacking.keys())
    yield f"complete: {', '.join(complete) or 'none'}"
    for extra, names in lacking.items():
        yield f'{extra} lacks {", ".join(names)}: pip install "jaxlm[{extra}]"'


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def _buckets(args: Doctor) -> Iterator[str]:
    if not _installed("gcsfs"):
        yield 'not installed: pip install "jaxlm[gcs]"'
        return
    keys = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    own = Path.home() / ".config/gcloud/application_default_credentials.json"
    if keys or own.is_file():
        yield f"credentials in {keys or own}; --workdir gs://BUCKET tries one"
    else:
        yield (
            "no credentials in files: gcloud auth application-default login, or the "
            "account of the machine; --workdir gs://BUCKET tries one"
        )


_LOOKS = {
    "versions": _versions,
    "hosts": _hosts,
    "devices": _devices,
    "memory": _memory,
    "disk": _disk,
    "programs": _cache,
    "optional": _optional,
    "gs://": _buckets,
}
