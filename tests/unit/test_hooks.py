"""Git's hooks run what `make check` runs."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_hooks_run_what_make_check_runs_and_fetch_nothing() -> None:
    makefile = (ROOT / "Makefile").read_text()
    target = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())

    assert target
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in target[1].splitlines()]
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == checks
    assert {hook["language"] for hook in hooks} == {"system"}
