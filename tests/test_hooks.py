"""The pre-commit hooks and `make check` run the same commands."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_hooks_are_the_commands_of_make_check():
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    # A hook is given the files that changed, in place of the folder.
    assert hooks == [re.sub(r" \.$", " --force-exclude", c) for c in commands] + ["make check"]
