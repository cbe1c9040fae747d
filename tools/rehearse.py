"""Rehearse a run on a pod: two hosts, a bucket, a preemption, a lost host, fewer hosts.

    .venv/bin/python -m tools.rehearse

The hosts are processes of one CPU device each, the bucket is a fake one on this machine
(the test extra has it). The run is stopped by a SIGTERM to one host, goes on, loses a
host by SIGKILL, and goes on in one process with both devices. It must end in the state,
to the bit, of a run that nothing disturbed. About 4 minutes on two cores.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

PRETRAIN = """
    pretrain bert_tiny --model.vocab_size 600 --model.num_layers 1 --model.d_model 32
    --model.d_ff 64 --batch 8 --length 32 --predictions 5 --log.tensorboard false
    --eval_every 0 --save_every 30 --steps 120 --log.every 20
""".split()  # noqa: SIM905
# A lost host is noticed after 10 seconds rather than 100.
COMMAND = """
import sys
from jaxlm import hosts
hosts.HEARTBEAT = 10
from jaxlm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(workdir: str, corpus: Path, *, count: int) -> list[subprocess.Popen]:
    """The processes of `count` hosts, with two devices altogether."""
    from xla_flags import FAST

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    devices = f"{FAST} --xla_force_host_platform_device_count={2 // count}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices}
    environment["PYTHONPATH"] = str(ROOT)
    if count > 1:
        environment["JAX_COORDINATOR_ADDRESS"] = address
        environment["JAX_NUM_PROCESSES"] = str(count)
    words = [*PRETRAIN, "--corpus", str(corpus), "--workdir", workdir]
    return [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words],
            env={**environment, "JAX_PROCESS_ID": str(number)}
            if count > 1
            else environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]


def end(processes: list[subprocess.Popen], *statuses: int) -> str:
    """Show what the hosts said at their end, and return all that the first one said."""
    every = [process.communicate(timeout=600)[0] for process in processes]
    for number, said in enumerate(every):
        for line in said.splitlines()[-3:]:
            print(f"   host {number}: {line}")
    found = [process.returncode for process in processes]
    print(f"   ended with {', '.join(map(str, found))}", flush=True)
    if statuses and tuple(found) != statuses:
        sys.exit(f"expected {', '.join(map(str, statuses))}:\n" + "\n".join(every))
    return every[0]


def wait_for(step: int, workdir: str, processes: list[subprocess.Popen]) -> None:
    """Wait until the run has saved a step after `step`."""
    from jaxlm.files import place

    saved = place(workdir) / "checkpoints"
    until = time.monotonic() + 300
    while not any(
        int(each.parent.name) > step for each in saved.glob("*/commit_success.txt")
    ):
        if time.monotonic() > until or any(p.poll() is not None for p in processes):
            for process in processes:
                process.kill()
            end(processes)
            sys.exit(f"no checkpoint after step {step}")
        time.sleep(0.2)


def digest(said: str) -> str:
    """The digest that a run prints of its last state."""
    return re.findall("state sha256 (.*)", said)[-1]


def main() -> int:
    """Rehearse; 0 if both runs end in the same state."""
    from bucket import serving

    with tempfile.TemporaryDirectory() as here, serving():
        text, corpus = Path(here, "text.txt"), Path(here, "corpus")
        lines = (f"The number {n} follows {n - 1}.\n\n" for n in range(1, 4000))
        text.write_text("".join(lines))
        words = [
            "prepare",
            *PRETRAIN[1:4],
            "--text",
            str(text),
            "--corpus",
            str(corpus),
        ]
        python = [sys.executable, "-m", "jaxlm"]
        subprocess.run([*python, *words], cwd=ROOT, check=True, capture_output=True)

        print("1. A run that nothing disturbs, in one process with two devices")
        whole = digest(end(start("gs://bkt/whole", corpus, count=1), 0))

        run = "gs://bkt/run"
        print("2. Two hosts; one gets SIGTERM: both save and end with 75")
        processes = start(run, corpus, count=2)
        wait_for(0, run, processes)
        processes[1].send_signal(signal.SIGTERM)
        said = end(processes, 75, 75)
        stopped = int(re.findall(r"stopped at step (\d+)", said)[-1])

        print("3. The same command on both; one is killed: the other says so and ends")
        processes = start(run, corpus, count=2)
        wait_for(stopped, run, processes)
        processes[1].kill()
        end(processes)

        print("4. The same command in one process, which takes over the lock")
        cut = digest(end(start(run, corpus, count=1), 0))

    print(f"undisturbed {whole}\nrehearsed   {cut}")
    return int(whole != cut)


if __name__ == "__main__":
    sys.exit(main())
