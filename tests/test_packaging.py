"""The source distribution is whole, and the wheel that is built from it works where only the wheel is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from lrflow.cli.pages import documents

pytest.importorskip("hatchling", reason="needs hatchling to build the wheel")
from packaging.metadata import Metadata
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(kind: str, source: Path, folder: Path) -> Path:
    words = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (made,) = folder.glob("lrflow-*.*")
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(build("sdist", ROOT, folder / "dist")) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob("lrflow-*")
    return unpacked


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return build("wheel", source, source.parent / "wheel")


def metadata(text: str) -> Metadata:
    return Metadata.from_email(text, validate=True)


def test_the_source_distribution_has_every_file_of_the_checkout(source: Path) -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("needs git to list the files of the checkout")
    missing = [name for name in files.stdout.splitlines() if not (source / name).is_file() and (ROOT / name).is_file()]
    assert missing == []
    assert metadata((source / "PKG-INFO").read_text()).name == "lrflow"


def test_the_metadata_are_valid_and_true(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        found = metadata(archive.read(name).decode())
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert found.description == (ROOT / "README.md").read_text()
    assert found.description_content_type == "text/markdown"
    assert (found.license_expression, found.license_files) == ("Apache-2.0", ["LICENSE"])
    assert set(found.provides_extra or ()) == PROJECT["optional-dependencies"].keys()
    assert "lrflow = lrflow.__main__:main" in scripts
    versions = [entry.rpartition(" ")[2] for entry in found.classifiers or () if ":: Python ::" in entry]
    assert versions == ["3.11"], "declare the versions with which the tests were run"
    assert str(sys.version_info.major) + f".{sys.version_info.minor}" in versions
    assert found.requires_python == SpecifierSet(">=3.11")


def test_the_wheel_has_options_recipes_and_pages_and_nothing_else(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    for path in [*ROOT.glob("conf/*/*.yaml"), *ROOT.glob("recipes/*/*.yaml"), *ROOT.glob("docs/*.md")]:
        assert f"lrflow/{path.relative_to(ROOT).as_posix()}" in names
    assert {f"lrflow/{name}/README.md" for name in documents() if "/" in name} <= names
    assert not [name for name in names if name.startswith("lrflow/docs/") and not name.endswith(".md")]
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"lrflow", "hydra_plugins"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_what_only_looks_works_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target"]
    subprocess.run([sys.executable, *words, str(tmp_path / "there"), str(wheel)], check=True, capture_output=True)
    commands = [["--help"], ["docs", "plan"], ["list"], ["schema"], ["task=plan", "--cfg", "job"]]
    code = "import lrflow; from lrflow.cli import main; print(lrflow.__file__)"
    code += "".join(f"; assert main({command!r}) == 0" for command in commands)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "there"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "there" / "lrflow"))
    for said in ("usage: lrflow", "# The plan", "no runs under outputs/", '"definitions"', "optimizer:"):
        assert said in done.stdout
    assert (tmp_path / "there" / "bin" / "lrflow").is_file()
