"""An engine whose own processes do not start: what they wrote is in the error."""

import os
import subprocess
import sys

import pytest

from pipeline.errors import TbrmError
from pipeline.sampling.engines.vllm_start import reasons


def test_what_the_engines_processes_wrote_is_told_and_still_goes_where_it_went(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    child = "import sys; sys.stderr.write('cause\\nout of memory\\n')"

    def start() -> None:
        subprocess.run([sys.executable, "-c", child], check=True)
        raise RuntimeError("Engine core initialization failed")

    with pytest.raises(TbrmError) as caught, reasons("/policy"):
        start()
    message = str(caught.value)
    assert "vLLM could not start on /policy: RuntimeError: Engine core initialization failed" in message
    assert "Last lines of its log:\n  cause\n  out of memory" in message
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "cause\nout of memory\nafterwards\n"
