"""The lock on `gs://`: one holder, renewed, told, and taken over when it runs out."""

import json
import subprocess
import sys
import time

import pytest

from jaxlm import lease
from jaxlm.files import place
from jaxlm.lease import leased
from jaxlm.types import UserError

pytestmark = pytest.mark.bucket


def test_a_second_process_is_told_who_holds_it_and_until_when(
    bucket, monkeypatch, capfd
):
    monkeypatch.setattr(lease, "LIMIT", 1.0)
    with leased(bucket):
        began = time.monotonic()
        with (
            pytest.raises(UserError, match=r"process \d+ on .* ends at .* UTC and is"),
            leased(bucket),
        ):
            pass
        assert time.monotonic() - began < 1  # told before it could have run out
        time.sleep(1.2)  # longer than the limit: it is renewed
        with pytest.raises(UserError), leased(bucket):
            pass
    assert not place(f"{bucket}/.lock").exists()
    assert "waiting for it" in capfd.readouterr().err
    with leased(bucket):
        pass


def test_the_lock_of_a_dead_process_is_taken_over(bucket, monkeypatch, capfd):
    monkeypatch.setattr(lease, "LIMIT", 1.0)
    with leased(f"{bucket}/other"):  # native code may have something to say at first
        capfd.readouterr()
    until = time.time() + 0.5
    record = {"holder": "process 7 on a", "until": until}
    place(f"{bucket}/.lock").write_text(json.dumps(record))
    with leased(bucket):
        assert time.time() >= until
        holder = json.loads(place(f"{bucket}/.lock").read_text())["holder"]
        assert holder != "process 7 on a"
    wait, taken = capfd.readouterr().err.splitlines()
    assert "in use by process 7 on a" in wait and "the lock of process 7 on a" in taken


def test_a_process_whose_lock_was_taken_ends_before_it_writes(bucket):
    code = f"""if True:
        import time
        from jaxlm import lease
        lease.LIMIT = 0.4
        with lease.leased({bucket!r}):
            print("held", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as held:
        assert held.stdout.readline() == "held\n"
        record = {"holder": "process 7 on a", "until": time.time() + 9}
        place(f"{bucket}/.lock").write_text(json.dumps(record))
        _, error = held.communicate(timeout=20)
    assert held.returncode == 1
    assert f"{bucket} was taken over by another process" in error
    assert json.loads(place(f"{bucket}/.lock").read_text()) == record


def test_a_server_that_refuses_all_leaves_the_lock_to_its_end(bucket, flaky):
    with pytest.raises(OSError, match="of the work"), leased(bucket):
        flaky.denied = "Permission denied"
        raise OSError("of the work")


def test_a_lock_whose_renewal_was_not_answered_is_still_held(
    bucket, flaky, monkeypatch
):
    monkeypatch.setattr(lease, "LIMIT", 2.0)
    with leased(bucket):
        before = place(f"{bucket}/.lock").read_text()
        flaky.unheard = r"\.lock"
        for _ in range(100):  # else the process would have ended itself
            time.sleep(0.1)
            if not flaky.unheard and place(f"{bucket}/.lock").read_text() != before:
                break
        assert not flaky.unheard
        time.sleep(1.5)
    assert not place(f"{bucket}/.lock").exists()  # it knew the newest generation


@pytest.mark.timeout(60)  # with TensorStore's own retries it would be 15 minutes
def test_a_server_that_is_gone_does_not_keep_a_process_for_long(
    bucket, flaky, monkeypatch
):
    monkeypatch.setitem(lease._RETRIES["gcs_request_retries"], "max_retries", 2)
    with pytest.raises(OSError, match="of the work"), leased(bucket):
        flaky.every = 1
        raise OSError("of the work")
    assert flaky.seen == [503, 429, 503]
