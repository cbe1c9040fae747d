"""`launch` prints scripts that start a run again until it is finished.

They run here with fake gcloud, srun, uv …, which write down what they are asked.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cli.commands import mistake

from jaxlm.cli import main

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
RUN = ["pretrain", "bert_tiny", "--workdir", "gs://b/a run", "--corpus", "gs://b/语料"]
RUN += ["--batch", "256", "--text", 'it\'s "$HOME" `x` \\ 文.txt']
POD = ["--accelerator", "v5litepod-16"]
TARGETS = {
    "tpu-vm": [*POD, "--zone", "us-west4-a", "--project", "my-project", "--spot"],
    "queued": [*POD, "--slices", "2", "--service_account", "a@b.iam"],
    "gke": [*POD, "--slices", "2", "--spot", "--service_account", "trainer"],
    "slurm": ["--nodes", "2", "--gpus", "4"],
}

# Installs a jaxlm that ends with the next of the statuses in $ENDS, and writes down
# its arguments.
UV = """#!/bin/bash
echo uv "$@" >> "$CALLS"
mkdir -p bin; cp "$FAKES/jaxlm" bin/jaxlm
"""
JAXLM = """#!/bin/bash
printf '%s\\n' jaxlm "$@" >> "$CALLS"
n=$(wc -l < "$COUNT"); echo >> "$COUNT"
set -- $ENDS
if [ "$2" = wait ]; then
  trap 'exit 75' TERM; touch "$CALLS.ready"; for _ in {1..200}; do sleep .05; done
fi
shift "$n"; exit "$1"
"""
# One node of one worker; its state is a file.
GCLOUD = """#!/bin/bash
printf '%s ' gcloud "$@" >> "$CALLS"; echo >> "$CALLS"
state=$FAKES/state; node=$FAKES/node; shift 2
case "$1 $2" in
  "tpu-vm describe" | "queued-resources describe")
    [ -f "$state" ] || { echo NOT_FOUND: no such >&2; exit 1; }
    cat "$state" ;;
  *" create") echo "$UP" > "$state"; mkdir -p "$node" ;;
  *" delete") rm -r "$state" "$node" ;;
  "tpu-vm scp") cp -r "$4" "$node" ;;
  "tpu-vm ssh")
    for each; do case $each in
      --command=*) command=${each#*=} ;;
      --output-directory=*) out=${each#*=} ;;
    esac; done
    cd "$node" || exit 255
    if [ "$out" ]; then HOME=$node bash -c "$command" > "$OLDPWD/$out/0.log"
    else HOME=$node bash -c "$command"; fi ;;
esac
"""
SRUN = """#!/bin/bash
printf '%s ' srun "$@" >> "$CALLS"; echo >> "$CALLS"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo scontrol "$@" >> "$CALLS"
"""


@pytest.fixture
def fakes(tmp_path):
    """The environment of a shell whose programs are fakes."""
    here = tmp_path / "fakes"
    here.mkdir()
    programs = {"uv": UV, "jaxlm": JAXLM, "gcloud": GCLOUD, "srun": SRUN}
    for name, text in (programs | {"scontrol": SCONTROL}).items():
        (here / name).write_text(text)
        (here / name).chmod(0o755)
    (tmp_path / "count").touch()
    facts = {"FAKES": here, "CALLS": tmp_path / "calls", "COUNT": tmp_path / "count"}
    facts |= {"PATH": f"{here}:/usr/bin:/bin", "HOME": tmp_path, "POLL_SECONDS": ".05"}
    return {key: str(value) for key, value in facts.items()}


def printed(capsys, target: str, *more: str, run=RUN) -> str:
    capsys.readouterr()
    argv = ["--print", target, "--install", "jaxlm", *TARGETS[target], *more]
    assert main(["launch", *argv, "--", *run]) == 0
    return capsys.readouterr().out


def execute(script: str, env: dict[str, str], *words: str, **more: str):
    """(status, calls) of a script."""
    file = Path(env["HOME"]) / "script.sh"
    file.write_text(script)
    done = subprocess.run(
        ["bash", str(file), *words], env=env | more, cwd=env["HOME"], timeout=60
    )
    return done.returncode, Path(env["CALLS"]).read_text()


def words(calls: str) -> list[list[str]]:
    """The arguments of each call of jaxlm."""
    count = len(RUN)
    lines = calls.splitlines()
    starts = [i for i, line in enumerate(lines) if line == "jaxlm"]
    return [lines[i + 1 : i + 1 + count] for i in starts]


@pytest.mark.parametrize("target", TARGETS)
def test_scripts_are_well_formed(target, capsys, tmp_path):
    text = printed(capsys, target, "--name", "my-run", "--install", "git+https://x/y")
    assert "@@" not in text
    file = tmp_path / "script"
    if target == "gke":
        document = yaml.safe_load(text)
        command = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        text = command["spec"]["containers"][0]["command"][2]
    file.write_text(text)
    subprocess.run(["bash", "-n", str(file)], check=True)
    if shellcheck := shutil.which("shellcheck", path=PATH):
        check = [shellcheck, "--shell=bash", "--severity=warning", str(file)]
        subprocess.run(check, check=True)


# Of jobset.x-k8s.io/v1alpha2's custom resource definition and of the Jobs in it.
JOBSET = {"network", "failurePolicy", "replicatedJobs", "successPolicy", "suspend"}
JOB = {"parallelism", "completions", "completionMode", "backoffLimit", "template"}
ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}


def test_a_jobset_has_a_pod_for_each_host(capsys):
    document = yaml.safe_load(printed(capsys, "gke", "--name", "my-run"))
    assert document["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert (document["kind"], document["metadata"]["name"]) == ("JobSet", "my-run")
    spec = document["spec"]
    assert spec.keys() <= JOBSET and spec["network"]["enableDNSHostnames"] is True
    (replicated,) = spec["replicatedJobs"]
    assert replicated.keys() == {"name", "replicas", "template"}
    job = replicated["template"]["spec"]
    assert job.keys() <= JOB | {"podFailurePolicy"}
    assert (replicated["replicas"], job["completions"], job["parallelism"]) == (2, 4, 4)
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["serviceAccountName"] == "trainer"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    # Kubernetes makes one $ of two.
    assert [each.replace("$$", "$") for each in container["args"]] == RUN


def restarted(document, status: int) -> bool:
    """What Kubernetes does after a pod has ended with a status."""
    spec = document["spec"]
    (rule,) = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert (rule["action"], codes["operator"]) == ("FailJob", "In")
    reason = "PodFailurePolicy" if status in codes["values"] else "BackoffLimitExceeded"
    assert spec["failurePolicy"]["maxRestarts"] > 0
    for each in spec["failurePolicy"]["rules"]:
        assert each["action"] in ACTIONS and each["name"]
        if reason in each["onJobFailureReasons"]:
            return each["action"] != "FailJobSet"
    return True


@pytest.mark.parametrize("ends", ["75 75 0", "2"])
def test_a_pod_is_made_again_until_it_is_finished(ends, capsys, fakes):
    document = yaml.safe_load(printed(capsys, "gke"))
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    args = [each.replace("$$", "$") for each in container["args"]]
    statuses = []
    while not statuses or (statuses[-1] and restarted(document, statuses[-1])):
        status, calls = execute(container["command"][2], fakes, *args, ENDS=ends)
        statuses.append(status)
    assert statuses == [int(each) for each in ends.split()]
    assert words(calls) == [RUN] * len(statuses)


def test_a_pod_that_is_deleted_passes_sigterm_on(capsys, fakes):
    document = yaml.safe_load(printed(capsys, "gke"))
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    script = job["template"]["spec"]["containers"][0]["command"][2]
    ready, command = Path(fakes["CALLS"] + ".ready"), ["bash", "-c", script, "jaxlm"]
    env = fakes | {"ENDS": "0 wait"}
    with subprocess.Popen([*command, *RUN], env=env, cwd=fakes["HOME"]) as process:
        for _ in range(200):
            time.sleep(0.05)
            if ready.exists():
                break
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 75


@pytest.mark.parametrize("target", ["tpu-vm", "queued"])
@pytest.mark.parametrize("ends", ["75 75 0", "137 0", "2"])
def test_hosts_of_a_tpu_go_on_after_75_and_no_mistake(target, ends, capsys, fakes):
    more = ["--slices", "1"] if target == "queued" else []
    up = "ACTIVE" if target == "queued" else "READY"
    script = printed(capsys, target, *more, "--name", "my-run")
    status, calls = execute(script, fakes, ENDS=ends, UP=up)
    assert status == int(ends.split()[-1])
    assert words(calls) == [RUN] * len(ends.split())
    create = next(line for line in calls.splitlines() if " create " in line)
    version = "runtime-version" if target == "queued" else "version"
    for flag in ("--accelerator-type=v5litepod-16", f"--{version}=v2-alpha-tpuv5-lite"):
        assert flag in create
    assert ("--node-id=my-run" in create) == (target == "queued")
    assert "uv tool install --python 3.12 jaxlm[tpu,gcs]" in calls
    log = Path(fakes["HOME"]) / "my-run-logs" / "my-run" / "0.log"
    assert f"ended with status {status}" in log.read_text()


def test_what_was_preempted_is_queued_for_anew(capsys, fakes):
    script = printed(capsys, "queued", "--slices", "1")
    Path(fakes["FAKES"], "state").write_text("SUSPENDED\n")
    Path(fakes["FAKES"], "node").mkdir()
    status, calls = execute(script, fakes, ENDS="0", UP="ACTIVE")
    verbs = [line.split()[4] for line in calls.splitlines() if "queued-res" in line]
    assert status == 0 and verbs[:3] == ["describe", "delete", "describe"]
    assert verbs.count("create") == 1


def test_a_job_of_slurm_is_requeued_until_it_is_finished(capsys, fakes):
    script = printed(capsys, "slurm", "--name", "my-run")
    directives = [x.split()[1] for x in script.splitlines() if x.startswith("#SBATCH")]
    assert directives == [
        "--job-name=my-run",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--exclusive",
        "--signal=TERM@300",
        "--requeue",
        "--open-mode=append",
        "--output=%x-%j.log",
    ]
    more = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": fakes["HOME"], "ENDS": "75 75 0"}
    for requeued in (1, 2, 2):
        status, calls = execute(script, fakes, **more)
        assert status == 0 and calls.count("scontrol requeue 7") == requeued
    assert words(calls) == [RUN] * 3 and calls.count("srun ") == 3


def test_a_mistake_of_slurm_is_not_requeued(capsys, fakes):
    more = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": fakes["HOME"]}
    status, calls = execute(printed(capsys, "slurm"), fakes, ENDS="2", **more)
    assert status == 2 and "scontrol" not in calls


@pytest.mark.parametrize(
    "install, wanted",
    [
        ("jaxlm", "'jaxlm[tpu,gcs]'"),
        ("jaxlm==0.1.0", "'jaxlm[tpu,gcs]==0.1.0'"),
        ("jaxlm[tpu]>=0.1", "'jaxlm[tpu]>=0.1'"),
        ("jaxlm @ git+https://h/r", "'jaxlm[tpu,gcs] @ git+https://h/r'"),
        ("git+https://h/r.git@v1", "'jaxlm[tpu,gcs] @ git+https://h/r.git@v1'"),
        ("gs://b/jaxlm-0.1-py3.whl", "'jaxlm[tpu,gcs] @ ./jaxlm-0.1-py3.whl'"),
    ],
)
def test_jaxlm_is_installed_from_where_it_is(install, wanted, capsys):
    text = printed(capsys, "gke", "--install", install)
    assert f"uv tool install --python 3.12 {wanted} && return" in text


GKE = "launch --print gke --install jaxlm --accelerator v5litepod-16"


@pytest.mark.parametrize(
    "command, said",
    [
        ("launch --print gcp --install jaxlm -- pretrain", "'gcp'"),
        ("launch -- pretrain bert_tiny", "--print"),
        ("launch --print gke --accelerator v6e-4 -- pretrain bert_tiny", "--install"),
        (
            "launch --print gke --install jaxlm -- pretrain x --workdir w",
            "--accelerator",
        ),
        (f"{GKE} pretrain bert_tiny --workdir gs://b/r", "put -- before the command"),
        (GKE, "after --"),
        (f"{GKE} -- prepare bert_tiny", "not 'prepare'"),
        (f"{GKE} -- pretrain bert_tinny --workdir gs://b/r", "did you mean bert_tiny"),
        (f"{GKE} -- pretrain bert_tiny --workdir gs://b/r --sted 1", "--sted"),
        (f"{GKE} -- pretrain bert_tiny", "--workdir"),
        (f"{GKE} -- pretrain bert_tiny --workdir gs://b/r --batch 24", "16 devices"),
        (f"{GKE} --zone us-west4-a -- pretrain x", "--zone has no effect"),
        (f"{GKE} --name My_Run -- pretrain x", "--name 'My_Run'"),
        (f"{GKE} --install jaxlmx -- pretrain bert_tiny --workdir gs://b/r", "none of"),
        (f"{GKE} --install x.whl -- pretrain bert_tiny --workdir gs://b/r", "gs://"),
        (
            f"{GKE} --accelerator v5e-256 -- pretrain x --workdir w",
            "did you mean v5litepod-256",
        ),
        (
            f"{GKE} --print tpu-vm --zone west -- pretrain x",
            "--zone 'west'",
        ),
    ],
)
def test_mistakes_are_one_line(command, said, capsys):
    error = mistake(capsys, *shlex.split(command))
    assert said in error and error.count("\n") == 1


def test_what_hosts_cannot_see_is_noted(capsys, tmp_path):
    (tmp_path / "v.txt").touch()
    run = ["pretrain", "bert_tiny", "--workdir", "runs/a", "--tokenizer"]
    run += [str(tmp_path / "v.txt"), "--batch", "256"]
    main(["launch", "--print", "gke", "--install", "jaxlm", *POD, "--", *run])
    notes = capsys.readouterr().err
    assert "--workdir runs/a is not on gs://: 4 hosts need" in notes
    assert "v.txt is here" in notes and "plan bert_tiny --topology v5e:4x4" in notes
