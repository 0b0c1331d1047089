"""The plan: every learning rate of a run, compiled before it starts; and the scheduler that executes it."""

from lrflow.plan.checks import Check
from lrflow.plan.diff import PlanDiff
from lrflow.plan.group import PlanGroup
from lrflow.plan.plan import Plan
from lrflow.plan.scheduler import PlanChangedWarning, PlanScheduler

__all__ = ["Check", "Plan", "PlanChangedWarning", "PlanDiff", "PlanGroup", "PlanScheduler"]
