"""Hooks of MkDocs: the site has the files of `Contents`, where MkDocs would take the folder docs as it is."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from contents import Contents

_contents: Contents


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read the repository anew for each build, also while it is served."""
    global _contents
    _contents = Contents()
    config.nav = _contents.navigation()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the pages and pictures, the styles and scripts of the site, and what the theme brings."""
    pages = [File.generated(config, path, content=text) for path, text in _contents.texts.items()]
    copies = [File.generated(config, path, abs_src_path=str(_contents.root / path)) for path in sorted(_contents.files)]
    docs = Path(config.docs_dir)
    others = [
        file
        for file in files
        if Path(file.src_dir or "") != docs or (file.src_uri.startswith("web/") and not file.src_uri.endswith(".py"))
    ]
    return Files([*others, *pages, *copies])
