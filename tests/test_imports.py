from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lrflow.imports import REQUIRED

ROOT = Path(__file__).parent.parent

WITHOUT = """
    import sys

    sys.modules[sys.argv.pop(1)] = None
    from lrflow.__main__ import main

    sys.exit(main())
"""


def test_every_required_package_has_an_import_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(REQUIRED.values()) == sorted(text.partition(">")[0] for text in project["dependencies"])


@pytest.mark.parametrize("package", ["hydra", "omegaconf", "pydantic", "torch"])
def test_a_required_package_that_is_missing_is_named(package: str, tmp_path: Path) -> None:
    code = "\n".join(line.strip() for line in WITHOUT.splitlines())
    words = [sys.executable, "-c", code, package, "fast=true", f"output={tmp_path}"]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 1
    message = f"lrflow: the package {REQUIRED[package]}, which lrflow requires, is not installed:"
    assert message.split() == ended.stderr.split()[: len(message.split())]
    assert "Traceback" not in ended.stderr
