"""Pictures of clothes."""

from __future__ import annotations

from typing import Any

from lrflow.data.module import DataModule


class FashionMNIST(DataModule):
    """70,000 pictures of clothes (Xiao, Rasul and Vollgraf, 2017)."""

    def __init__(self, root: str | None = None, download: bool = True, **options: Any) -> None:
        super().__init__(**options)
