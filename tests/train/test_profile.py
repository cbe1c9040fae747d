"""--profile START:STOP: a trace of those steps, and of no others."""

from __future__ import annotations

import warnings

import pytest
from jax.profiler import ProfileData
from runs import pretrain
from tiny import tiny

import jaxlm
from jaxlm.cli.pretrain import TrainingOptions
from jaxlm.types import UserError


def traced(workdir) -> list[int]:
    """The steps in the trace of a workdir."""
    (file,) = (workdir / "profile").rglob("*.xplane.pb")
    with warnings.catch_warnings():
        # Python 3.12 warns of a type of jaxlib 0.12; as an error it ends the process.
        warnings.simplefilter("ignore")
        return [
            dict(event.stats)["step_num"]
            for plane in ProfileData.from_file(str(file)).planes
            for line in plane.lines
            for event in line.events
            if event.name == "train"
        ]


def test_a_trace_has_the_steps_and_changes_no_result(corpus, tmp_path, capsys):
    plain = pretrain(tiny(stop=6), corpus, tmp_path / "plain")
    assert not (tmp_path / "plain/profile").exists()
    capsys.readouterr()
    run = tmp_path / "traced"
    assert pretrain(tiny(stop=6), corpus, run, profile="2:4").sha256 == plain.sha256
    assert traced(run) == [2, 3]
    assert f"xprof --port 8791 {run}/profile" in capsys.readouterr().out


def test_a_resumed_run_traces_what_is_left(corpus, tmp_path, capsys):
    """Also if the run ends before STOP."""
    pretrain(tiny(stop=4), corpus, tmp_path, profile="4:6")
    assert "no profile: 4:6 has no step of those from 0 to 4" in capsys.readouterr().out
    pretrain(tiny(stop=6), corpus, tmp_path, profile="3:99")
    assert traced(tmp_path) == [4, 5]


@pytest.mark.parametrize("text", ["5", "5:5", "a:b"])
def test_a_profile_is_two_steps(text):
    with pytest.raises(UserError, match=f"profile = {text} is not FIRST:END"):
        TrainingOptions(workdir="", profile=text)


@pytest.mark.parametrize("end", [{"steps": 9}, {"stop": 9}])
def test_a_profile_after_the_end_is_refused_before_anything_is_made(end, tmp_path):
    with pytest.raises(UserError, match="profile = 9:12 begins after the last step, 9"):
        jaxlm.pretrain(
            "bert_tiny", text="no", workdir=tmp_path / "w", profile="9:12", **end
        )
    assert not (tmp_path / "w").exists()
