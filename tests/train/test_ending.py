"""Hosts of a job tell one another how it ends. Here they are threads with one store."""

import itertools
import threading
import time
from types import SimpleNamespace

import jax
import pytest

from jaxlm.train import ending
from jaxlm.train.ending import End, Ending
from jaxlm.types import UserError

INTERRUPTED = End(1, 75, "interrupted")


class Store:
    """What `Ending` uses of JAX's store of keys and values."""

    def __init__(self):
        self.values: dict[str, str] = {}

    def key_value_set(self, key, value):
        if self.values.setdefault(key, value) is not value:
            raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")

    def key_value_try_get(self, key):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self.values[key]

    def key_value_dir_get(self, key):
        return [each for each in list(self.values.items()) if each[0].startswith(key)]

    def blocking_key_value_get(self, key, limit):
        while key not in self.values:
            time.sleep(0.001)
        return self.values[key]


@pytest.fixture
def job(monkeypatch):
    """Three hosts, and what they were asked to end by, as (host, end)."""
    monkeypatch.setattr(ending, "_LOOK", 0.01)
    monkeypatch.setattr(ending, "_GRACE", 0.1)
    monkeypatch.setattr(ending, "_number", itertools.repeat(0))
    store, acted, every = Store(), [], []
    for host in range(3):
        state = SimpleNamespace(client=store, process_id=host, num_processes=3)
        fake = SimpleNamespace(global_state=state)
        monkeypatch.setattr(ending, "distributed", fake)
        every.append(Ending(lambda end, host=host: acted.append((host, end))))
    yield every, acted
    for each in every:
        each._end_thread()


def until(true):
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it does not happen")


def test_all_stop_at_one_step_that_none_has_passed(job):
    """Though they are at different steps, and one waits for another in native code."""
    every, acted = job
    at, stopped = [7, 9, 8], {}

    def train(host):
        with every[host].loop() as stops:
            step = at[host]
            assert not stops(step)
            ready.wait()
            told.wait()
            until(lambda: every[host]._stop is not None)
            while not stops(step):
                step += 1
            stopped[host] = step

    ready, told = threading.Barrier(4), threading.Event()
    threads = [threading.Thread(target=train, args=(host,)) for host in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    assert every[1].tell(75, "interrupted") == INTERRUPTED
    told.set()
    for thread in threads:
        thread.join()
    assert stopped == dict.fromkeys(range(3), 10) and not acted
    with every[0].loop() as stops:  # of the next seed
        assert stops(0)
    # One status for all, also where the loop had come to its end by itself.
    assert [each.close(75 * (each is every[0]), failed=False) for each in every] == [
        75,
        75,
        75,
    ]


def test_all_end_at_once_if_one_is_not_in_the_loop(job):
    every, acted = job
    with every[0].loop(), every[1].loop():
        every[1].tell(75, "interrupted")
        until(lambda: len(acted) == 3)
    assert sorted(acted) == [(host, INTERRUPTED) for host in range(3)]


def test_hosts_end_with_the_status_of_the_first_for_which_they_wait(job):
    every, acted = job
    found = {}

    def end(host, status):
        found[host] = every[host].close(status, failed=False)

    threads = [threading.Thread(target=end, args=each) for each in ((1, 0), (2, 1))]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert not found
    end(0, 3)
    for thread in threads:
        thread.join()
    assert found == {0: 3, 1: 3, 2: 1} and not acted


def test_a_mistake_of_one_host_ends_all_but_those_that_end_themselves(job):
    every, acted = job
    threads = [
        threading.Thread(target=every[host].close, args=(2,), kwargs={"failed": True})
        for host in (1, 2)
    ]
    for thread in threads:
        thread.start()
        thread.join()
    until(lambda: acted)
    assert acted == [(0, End(1, 2, "failed"))]


def test_the_first_end_holds(job):
    every, acted = job
    assert every[0].tell(0, "finished") == End(0, 0, "finished")
    assert every[1].tell(75, "interrupted") == End(0, 0, "finished")
    assert [each.close(0, failed=False) for each in every] == [0, 0, 0] and not acted


def test_hosts_that_run_other_verbs_do_not_wait_for_each_other(job):
    every, _ = job
    every[0].check("fill")
    every[1].check("fill")
    with pytest.raises(
        UserError, match="this host runs pretrain, but host 0 runs fill"
    ):
        every[2].check("pretrain")
