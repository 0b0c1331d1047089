"""The plan: every learning rate of a run, compiled before it starts; and the scheduler that executes it."""

from typing import TYPE_CHECKING

from lrflow.imports import callable_package, lazily

if TYPE_CHECKING:
    from lrflow.plan.checks import Check
    from lrflow.plan.diff import PlanDiff
    from lrflow.plan.lr_scheduler import PlanChangedWarning, PlanScheduler
    from lrflow.plan.plan import Plan
    from lrflow.plan.values import PlanGroup

__all__ = ["Check", "Plan", "PlanChangedWarning", "PlanDiff", "PlanGroup", "PlanScheduler"]

__getattr__ = lazily(__name__, {
    "Check": "checks", "Plan": "plan", "PlanChangedWarning": "lr_scheduler", "PlanDiff": "diff", "PlanGroup": "values",
    "PlanScheduler": "lr_scheduler",
})  # fmt: skip

callable_package(__name__, "lrflow.api")  # lrflow.plan(...) compiles a plan
