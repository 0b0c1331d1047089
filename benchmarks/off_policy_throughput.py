"""Compare environment steps per second of lrflow's DQN and SAC recipes with stable-baselines3.

    python benchmarks/off_policy_throughput.py        # needs lrflow[rl] and stable-baselines3

Both use rl-baselines3-zoo's settings and one thread, DQN on CartPole-v1 and SAC on Pendulum-v1. They alternate, so that
other load on the machine affects both. The CPU time is the difference between a long and a short run, so that startup
cancels out. Evaluation and checkpoints are left out. Both sides do the same work, except that SAC of stable-baselines3
computes no gradient norms and uses no fused optimizers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import torch

FIRST = 512  # environment steps of the short run


def lrflow(recipe: str, steps: int) -> None:
    """Run a recipe through lrflow's command line, including metrics and metrics.csv."""
    from lrflow.cli import main

    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"recipe={recipe}", f"trainer.max_samples={steps}", "data.learning_starts=100", "task.test=false"]
        overrides += ["model.hidden=[256,256]", f"output={folder}", "trainer.progress=false", "trainer.val_every=100%"]
        overrides += ["trainer.limit_val_batches=0", "trainer.checkpoint.monitor=null", "trainer.checkpoint.every=100%"]
        if main(overrides):
            raise RuntimeError("lrflow's run failed")


def sb3_dqn(steps: int) -> None:
    """Train `DQN` of stable-baselines3 with rl-baselines3-zoo's settings for CartPole-v1."""
    from stable_baselines3 import DQN

    DQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=100,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        device="cpu",
        seed=0,
    ).learn(steps + 100)


def sb3_sac(steps: int) -> None:
    """Train `SAC` of stable-baselines3 with rl-baselines3-zoo's settings for Pendulum-v1."""
    from stable_baselines3 import SAC

    SAC("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, device="cpu", seed=0).learn(steps + 100)


def seconds(run: Callable[[int], None], steps: int) -> float:
    """Return the CPU seconds of `steps` environment steps."""
    begun = time.process_time()
    run(FIRST)
    between = time.process_time()
    run(FIRST + steps)
    return (time.process_time() - between) - (between - begun)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["rl_dqn", "rl_sac"], help="rl_dqn, rl_sac")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for recipe, peer, steps in (("rl_dqn", sb3_dqn, 4096), ("rl_sac", sb3_sac, 1024)):
        if recipe not in asked.names:
            continue
        ratios = []
        for _ in range(asked.rounds):
            own = seconds(lambda count, recipe=recipe: lrflow(recipe, count), steps)  # type: ignore[misc]
            theirs = seconds(peer, steps)
            ratios.append(theirs / own)
            print(f"{recipe}: {steps / own:,.0f} environment steps per CPU second, ", end="")
            print(f"stable-baselines3: {steps / theirs:,.0f}", flush=True)
        print(f"{recipe} is {statistics.median(ratios):.2f} times as fast as stable-baselines3")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
