"""Hosts are found from what each launcher sets, and must agree."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import warnings
from typing import ClassVar

import jax
import pytest
from jax._src.clusters import cloud_tpu_cluster
from states import ROOT

from jaxlm import hosts
from jaxlm.cli import witness
from jaxlm.types import UserError

SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_NODELIST": "n[001-008]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "localhost,b,c,d", "TPU_WORKER_ID": "2"}
SLICES = {
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
TORCHRUN = {"WORLD_SIZE": "8", "RANK": "5", "MASTER_ADDR": "h0", "MASTER_PORT": "9"}
OWN = {
    "JAX_COORDINATOR_ADDRESS": "h0:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
FOUND = [
    ("GKE", GKE, "localhost:8482", 4, 2),
    ("slices", SLICES, "localhost:8482", 2, 1),
    ("Slurm", SLURM | {"SLURM_NTASKS": "8"}, "n001:61441", 8, 3),
    ("Slurm, a step", SLURM | {"SLURM_STEP_NUM_TASKS": "8"}, "n001:61441", 8, 3),
    ("torchrun", TORCHRUN, "h0:9", 8, 5),
    ("its agent", TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}, "h0:10", 8, 5),
    ("by hand", OWN, "h0:1", 2, 1),
]
REFUSED = [
    ("srun", {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}),
    ("kubernetes", {"JOB_COMPLETION_INDEX": "0", "KUBERNETES_SERVICE_HOST": "1"}),
    ("set RANK", {"WORLD_SIZE": "8"}),
    ("without JAX_COORDINATOR_ADDRESS", {"JAX_NUM_PROCESSES": "2"}),
    ("not one of", OWN | {"JAX_PROCESS_ID": "2"}),
    ("address of host 0, h0, ends in no port", OWN | {"JAX_COORDINATOR_ADDRESS": "h0"}),
    ("MASTER_PORT=x is not a number", TORCHRUN | {"MASTER_PORT": "x"}),
    ("LOCAL_RANK= is not a number", TORCHRUN | {"LOCAL_WORLD_SIZE": "4"}),
]


class Metadata(http.server.BaseHTTPRequestHandler):
    """The metadata server of worker 1 of 3."""

    asked: ClassVar[list[str]] = []
    values: ClassVar[dict[str, str]] = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "u:1:127.0.0.1,u:2:10.0.0.2,u:3:10.0.0.3",
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-12'",
    }

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.asked.append(name)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.values[name].encode())

    def log_message(self, format: str, *args) -> None:
        pass


@pytest.fixture
def joined(monkeypatch):
    """The arguments of each `initialize`; no variable tells of hosts."""
    names = {name for _, each, *_ in FOUND for name in each}
    names |= {name for _, each in REFUSED for name in each}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    calls: list = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append(a))
    monkeypatch.setattr(hosts.multihost_utils, "sync_global_devices", lambda name: None)
    return calls


@pytest.fixture
def tpu(monkeypatch):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)


@pytest.fixture
def metadata(monkeypatch, tpu):
    """The names that a fake metadata server was asked for, on a TPU."""
    pytest.importorskip("requests")
    monkeypatch.setattr(Metadata, "asked", [])
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        yield Metadata.asked
        server.shutdown()


def setenv(monkeypatch, variables) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("what, variables, address, count, number", FOUND)
def test_hosts_join_by_what_their_launcher_sets(
    monkeypatch, joined, what, variables, address, count, number
):
    setenv(monkeypatch, variables)
    if "TPU_WORKER_ID" in variables:
        monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
        monkeypatch.setattr(
            cloud_tpu_cluster, "get_tpu_env_value", lambda name: variables.get(name)
        )
    monkeypatch.setenv("SLURM_NTASKS", variables.get("SLURM_NTASKS", "1"))
    hosts.join(str(count))
    assert [call[:3] for call in joined] == [(address, count, number)]


@pytest.mark.parametrize("says, variables", REFUSED)
def test_half_told_hosts_are_refused_in_one_line(monkeypatch, joined, says, variables):
    setenv(monkeypatch, variables)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match=says) as refused:
            hosts.join()
        if "--hosts off" in str(refused.value):
            hosts.join("")  # a verb without that flag runs on this host alone
    assert not joined


def test_a_tpu_pod_is_found_by_its_metadata_server(joined, metadata):
    hosts.join()
    assert [call[:3] for call in joined] == [("127.0.0.1:8482", 3, 1)]
    assert metadata


def test_off_asks_no_metadata_server_and_no_tpu_asks_none(
    monkeypatch, joined, metadata
):
    hosts.join("off")
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", False)
    hosts.join()
    assert not joined and not metadata


def test_another_number_of_hosts_is_refused(monkeypatch, joined):
    with pytest.raises(UserError, match="--hosts 2, but this job has 1"):
        hosts.join("2")
    setenv(monkeypatch, OWN)
    with pytest.raises(UserError, match="--hosts 4, but this job has 2"):
        hosts.join("4")
    with pytest.raises(UserError, match="--hosts two is none of auto, off"):
        hosts.join("two")
    assert not joined


def test_hosts_that_differ_are_named_with_what_differs(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    others = ['{"optim.peak": "0.1"}', '{"optim.peak": "0.2"}']
    monkeypatch.setattr(hosts, "gathered", lambda text: [text, *others])
    with pytest.raises(UserError, match=r"host 2: optim.peak is 0.2, on host 0 0.1$"):
        hosts.agree({"optim": {"peak": 0.1}})


def test_a_mistake_of_one_host_is_told_to_all(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "gathered", lambda text: [text, "UserError: no disk"])
    with pytest.raises(UserError, match="host 1 has stopped: no disk"):
        hosts.together(lambda: 1)


def test_hosts_that_do_not_come_are_named(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from jaxlm import hosts
hosts.LIMIT = 3
from jaxlm.cli import main
main(["pretrain", "bert_tiny", "--workdir", {str(tmp_path)!r}])
"""
    variables = {
        "JAX_COORDINATOR_ADDRESS": "127.0.0.1:45719",
        "JAX_NUM_PROCESSES": "3",
        "JAX_PROCESS_ID": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode != 0
    remedy = "did not join in time: start the same command on all hosts"
    assert done.stderr == f"jaxlm: host 0 has ended, because host 1, 2 {remedy}\n"


def test_a_coordinator_that_does_not_answer_is_named(tmp_path):
    """By what JAX writes when it ends the process; it would take minutes to do so."""
    log = tmp_path / "log"
    command = [sys.executable, witness.__file__, str(log), "1", "h0:9"]
    fatal = "Terminating process because the JAX distributed service detected fatal"
    fatal += " errors. DEADLINE_EXCEEDED\n\nRPC: /xla.coordination.CoordinationService"
    done = subprocess.run(
        command, input=f"{fatal}/RegisterTask\n", capture_output=True, text=True
    )
    remedy = "did not answer at h0:9: start the same command on all hosts"
    assert done.stderr == f"jaxlm: host 1 has ended, because host 0 {remedy}\n"


def test_a_port_that_is_taken_is_refused(monkeypatch, joined):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        setenv(monkeypatch, OWN | {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"})
        hosts.join()  # the second host does not listen
        monkeypatch.setenv("JAX_PROCESS_ID", "0")
        with pytest.raises(UserError, match=f"port {port} of host 0 is taken"):
            hosts.join()
    assert len(joined) == 1
