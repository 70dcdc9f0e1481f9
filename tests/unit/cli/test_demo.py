"""The next steps that `resmeter demo` prints, and the script that points a shell at it."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pipeline.cli.demo import sourced
from pipeline.cli.views.demo import next_steps


def test_sourced_script_finds_the_command_and_keeps_the_path(tmp_path: Path) -> None:
    scripts = tmp_path / "it's a $HOME"
    scripts.mkdir()
    (scripts / "resmeter").write_text("#!/bin/sh\necho ours\n")
    (scripts / "resmeter").chmod(0o700)
    file = tmp_path / "env.sh"
    file.write_text(sourced({"RESMETER_CONFIG": "a b"}, scripts))

    done = subprocess.run(
        [
            "sh",
            "-c",
            f'. {shlex.quote(str(file))}; resmeter; echo "$PATH"; echo "$RESMETER_CONFIG"',
        ],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == ["ours", f"{scripts}:{os.environ['PATH']}", "a b"]


def test_kept_demo_does_not_advise_to_keep_it() -> None:
    assert "KEEP=1" in next_steps("acme", "c1", is_kept=False)
    kept = next_steps("acme", "c1", is_kept=True)
    assert "KEEP=1" not in kept
    assert "resmeter explain acme c1" in kept


@pytest.mark.parametrize("is_kept", [False, True])
def test_next_steps_are_aligned_and_fit_80_columns(*, is_kept: bool) -> None:
    _, _, *rows = next_steps("contoso-travel", "tau-25-0", is_kept=is_kept).splitlines()

    assert max(map(len, rows)) <= 80
    assert {re.split(r"  +", row)[-1] for row in rows} == {row[28:] for row in rows}
