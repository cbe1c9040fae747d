"""Several hosts write one checkpoint and agree on what is sound."""

import os
import socket
import subprocess
import sys

from states import ROOT
from xla_flags import FAST

TWO_HOSTS = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxlm.checkpoints import Checkpoints, StoredLeaf
from jaxlm.checkpoints.digests import digest
from jaxlm.types import UserError

mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
host = {"table": np.arange(64, dtype=np.float32).reshape(8, 8), "step": np.int32(4)}
parts = {"table": NamedSharding(mesh, P("d")), "step": NamedSharding(mesh, P())}
state = {
    name: jax.make_array_from_callback(x.shape, parts[name], lambda i, x=x: x[i])
    for name, x in host.items()
}
abstract = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parts[name])
    for name, x in host.items()
}
checkpoints = Checkpoints(sys.argv[3], keep=2)
checkpoints.open()
multihost_utils.sync_global_devices("open")
for step in (1, 2, 3):
    digests = checkpoints.save(step, state, {"at": step})
checkpoints.wait()
multihost_utils.sync_global_devices("saved")
restored = checkpoints.restore(abstract)
assert restored.digests == digests == digest(host) and restored.step == 3
real = StoredLeaf._open
if jax.process_index() == 1:
    def stale(leaf):
        if leaf.step.name == "3":
            raise OSError("stale file handle")
        return real(leaf)
    StoredLeaf._open = stale
try:
    checkpoints.restore(abstract)
except UserError as error:
    said = str(error)
restored = checkpoints.restore(abstract, fallback=True)
with open(sys.argv[4], "w") as out:
    print(said, file=out)
    print(restored.step, file=out)
multihost_utils.sync_global_devices("end")
"""


def test_two_hosts_write_one_checkpoint_and_agree_on_damage(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"{FAST} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    run = tmp_path / "run"
    # To files: Gloo's own words land anywhere in what a host prints.
    files = [tmp_path / f"host.{rank}" for rank in range(2)]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_HOSTS, address, str(rank), run, file],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    try:
        errors = [host.communicate(timeout=120)[1] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    reasons = (
        "another host cannot read it",
        "leaf step cannot be read: OSError: stale",
    )
    for host, error, file, reason in zip(hosts, errors, files, reasons, strict=True):
        assert host.returncode == 0, error
        said, step = file.read_text().splitlines()
        assert f"checkpoints/3 is damaged: {reason}" in said
        assert step == "2"
    assert sorted(each.name for each in (run / "checkpoints").iterdir()) == [
        "2",
        "3.unsound",
    ]
