"""The README's tour, by copy and paste: its own blocks, run by bash in an empty folder."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from federation import NEVER_MAKES_ROOM, free_port

pytestmark = pytest.mark.processes

README = Path(__file__).parents[2] / "README.md"


def test_the_tour_of_the_readme_ends_with_a_model_and_its_report(tmp_path):
    text = README.read_text(encoding="utf-8")
    tour = text[text.index("## A tour by copy and paste") : text.index("## From Python")]
    set_up, hub, *rest = re.findall(r"```\n(.*?)```", tour, re.DOTALL)
    assert "make .venv/demo" in set_up  # the tests have set up already
    ready = "until grep -q Serving hub.log; do sleep 0.1; done; sleep 1\n"
    script = "set -e -m\n" + hub + ready + "\n".join(rest)
    script = script.replace("127.0.0.1:8443", f"127.0.0.1:{free_port()}")
    # Beside other tests the machine looks busy to a node, which would make room for them.
    (tmp_path / "settings").write_text(NEVER_MAKES_ROOM)
    given = "tee -a north/node.toml < settings >> south/node.toml\n"
    script = script.replace("wardround node run north", f"{given}wardround node run north", 1)
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    with (tmp_path / "output").open("w+b") as output:
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(120)
        finally:
            for group in re.findall(r"^\[\d+\] (\d+)$", (tmp_path / "output").read_text(), re.MULTILINE):
                os.killpg(int(group), signal.SIGKILL)
    printed = (tmp_path / "output").read_text()
    assert code == 0, printed
    for words in ("Enrolled north", "No record leaves it", "200 records read", "now running", "released", "ok   clock"):
        assert words in printed, printed
    assert (tmp_path / "result" / "model.safetensors").stat().st_size == 140
    assert "What left each site" in (tmp_path / "result" / "report.html").read_text(encoding="utf-8")
