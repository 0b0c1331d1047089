"""The plan: every learning rate of a run, compiled before it starts; and the scheduler that executes it."""

from lrflow.plan.checks import Check
from lrflow.plan.diff import PlanDiff
from lrflow.plan.plan import Plan, PlanGroup
from lrflow.plan.scheduler import PlanScheduler

__all__ = ["Check", "Plan", "PlanDiff", "PlanGroup", "PlanScheduler"]
