"""A run directory to harm."""

import shutil
from pathlib import Path

import pytest
from states import write


@pytest.fixture(scope="session")
def two_steps(tmp_path_factory) -> Path:
    """A run directory with steps 10 and 20; copy it before you harm it."""
    directory = tmp_path_factory.mktemp("run")
    write(directory, 10, 20)
    return directory


@pytest.fixture
def run(two_steps, tmp_path) -> Path:
    shutil.copytree(two_steps / "checkpoints", tmp_path / "checkpoints")
    return tmp_path
