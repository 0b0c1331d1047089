"""`lrflow translate`: training configs of other tools as recipes whose LR is that tool's at every step."""

from lrflow.translate.facts import Facts
from lrflow.translate.tools import TOOLS, kinds, translate

__all__ = ["TOOLS", "Facts", "kinds", "translate"]
