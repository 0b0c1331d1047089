"""Artifacts of a run on Weights & Biases: its weights, its exports, and the recipe of a sweep's best trial."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrflow.loggers.dashboard import About
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder, newest_checkpoint


@dataclass(frozen=True)
class Artifact:
    """Files that W&B keeps together, with versions.

    Args:
        name: name within the project.
        kind: W&B's type of the artifact: `model`, `export` or `recipe`.
        files: the files.
        facts: what W&B shows of it.
        aliases: names of this version.
    """

    name: str
    kind: str
    files: tuple[Path, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ("latest",)


def artifacts_of(folder: RunFolder, run_id: str, about: About, outcome: Outcome) -> Iterator[Artifact]:
    """Yield the artifacts of a run folder or of a sweep folder."""
    weights = [path for path in (folder.best, newest_checkpoint(folder.path)) if path is not None and path.exists()]
    if weights:
        record = [path for path in (folder.config, folder.plan, folder.summary) if path.exists()]
        aliases = ("latest", outcome.status, *(("best",) if folder.best.exists() else ()))
        yield Artifact(f"model-{run_id}", "model", (*weights, *record), about.ending(folder.path, outcome), aliases)
    yield from exports_of(folder, run_id)
    if (recipe := folder.path / "recipe" / "best.yaml").exists():
        yield Artifact(f"recipe-{run_id}", "recipe", (recipe,))


def exports_of(folder: RunFolder, run_id: str) -> Iterator[Artifact]:
    """Yield an artifact per export of a run."""
    for place in sorted(folder.path.glob("export/*/")):
        if files := sorted(path for path in place.rglob("*") if path.is_file()):
            yield Artifact(f"export-{run_id}-{place.name}", "export", tuple(files))


def log_artifacts(run: Any, folder: RunFolder, about: About, outcome: Outcome) -> None:
    """Upload the artifacts of a run; of an offline run, `wandb sync` uploads them from where they are."""
    for one in artifacts_of(folder, run.id, about, outcome):
        log_artifact(run, one)


def log_artifact(run: Any, one: Artifact) -> None:
    """Upload an artifact."""
    import wandb

    artifact = wandb.Artifact(one.name, one.kind, metadata=one.facts)
    for path in one.files:
        artifact.add_file(str(path.resolve()), skip_cache=True, policy="immutable")  # else W&B copies it first
    run.log_artifact(artifact, aliases=[*one.aliases])


@contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """Let W&B keep files of artifacts and tables in a folder until they are uploaded, and not in the user's home."""
    before = os.environ.get("WANDB_DATA_DIR")
    if before is None:
        os.environ["WANDB_DATA_DIR"] = str(folder.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
