"""Ranges of single optimizers' arguments, whose classes take values that end in a crash or in no training at all."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel

from lrflow.config import fields as f

LineSearch = Annotated[Any, f.expects("strong_wolfe, or null for none", lambda value: value in ("strong_wolfe", None))]
Growth = Annotated[
    float, f.expects("a number above 1, or inf", lambda value: value == math.inf or (f.is_number(value) and value > 1))
]


class Arguments(BaseModel):
    """By the name that the optimizer of the comment gives them; what they mean stands in its option file."""

    # L-BFGS
    max_iter: f.Count = 4
    history_size: f.Count = 10
    line_search_fn: LineSearch = "strong_wolfe"
    # Prodigy and D-adaptation
    d0: f.Positive = 1e-6
    d_coef: f.Positive = 1.0
    growth_rate: Growth = math.inf
    slice_p: f.Count = 1
    # AdaHessian and Sophia
    update_period: f.Count = 1
    num_samples: f.Count = 1
    # averaged SGD
    t0: f.NotNegative = 0
    lambd: f.NotNegative = 0.0
    # Shampoo and SOAP
    block_size: f.Count = 256
    start_preconditioning_step: f.Count = 25
    preconditioning_compute_steps: f.Count = 10
    precondition_frequency: f.Count = 10
