"""Compare environment steps per CPU second of PPO: lrflow's recipe, CleanRL's loop and stable-baselines3.

    python benchmarks/rl_throughput.py --rounds 3        # needs lrflow[rl] and stable-baselines3

All use the settings of `recipe=rl_ppo` on CartPole-v1: 4 environments, 128 steps, 4 passes of 4 minibatches, two layers
of 64, one thread. They alternate, so that other load on the machine affects all; the result is the ratio of the
medians. CleanRL's loop is written here after the structure of its `ppo.py`: the whole agent and a `Categorical` at each
environment step, the advantages in a loop over steps. Evaluation and checkpoints are left out of all three.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical

ENVS, STEPS, EPOCHS, MINIBATCHES = 4, 128, 4, 4
BATCH = ENVS * STEPS
LR, GAMMA, LAMBDA, CLIP, ENTROPY, VALUE = 2.5e-4, 0.99, 0.95, 0.2, 0.01, 0.5


def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """Return an orthogonally initialised linear layer."""
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, gain)
    nn.init.zeros_(made.bias)
    return made


class CleanAgent(nn.Module):
    """Actor and critic as in CleanRL."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(layer(4, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, 1.0))
        self.actor = nn.Sequential(layer(4, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 2, 0.01))

    def act(self, observations: Tensor, actions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return actions, their log-probabilities, the entropy and the value."""
        policy = Categorical(logits=self.actor(observations))
        if actions is None:
            actions = policy.sample()
        return actions, policy.log_prob(actions), policy.entropy(), self.critic(observations)


def cleanrl(iterations: int) -> None:
    """Run CleanRL's loop."""

    def make() -> gym.Env[Any, Any]:
        return gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))

    envs = SyncVectorEnv([make] * ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = CleanAgent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=LR, eps=1e-5)
    observations = torch.zeros(STEPS, ENVS, 4)
    actions, log_probs, rewards, dones, values = (torch.zeros(STEPS, ENVS) for _ in range(5))
    current, done = torch.Tensor(envs.reset(seed=0)[0]), torch.zeros(ENVS)
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = LR * (1 - iteration / iterations)
        for step in range(STEPS):
            observations[step], dones[step] = current, done
            with torch.no_grad():
                action, log_prob, _, value = agent.act(current)
                values[step] = value.flatten()
            actions[step], log_probs[step] = action, log_prob
            following, reward, terminated, truncated, _ = envs.step(action.cpu().numpy())
            rewards[step] = torch.tensor(reward).view(-1)
            current, done = torch.Tensor(following), torch.Tensor(np.logical_or(terminated, truncated))
        with torch.no_grad():
            next_value, advantages = agent.critic(current).reshape(1, -1), torch.zeros_like(rewards)
            last = torch.zeros(ENVS)
            for step in reversed(range(STEPS)):
                final = step == STEPS - 1
                going_on = 1.0 - (done if final else dones[step + 1])
                delta = rewards[step] + GAMMA * (next_value if final else values[step + 1]) * going_on - values[step]
                advantages[step] = last = delta + GAMMA * LAMBDA * going_on * last
            returns = advantages + values
        flat = observations.reshape(-1, 4), log_probs.reshape(-1), actions.reshape(-1), advantages.reshape(-1)
        old_obs, old_logs, old_actions, old_advantages = flat
        old_returns, old_values = returns.reshape(-1), values.reshape(-1)
        indices, fractions = np.arange(BATCH), []
        for _ in range(EPOCHS):
            np.random.shuffle(indices)
            for start in range(0, BATCH, BATCH // MINIBATCHES):
                rows = indices[start : start + BATCH // MINIBATCHES]
                _, logs, entropy, new_values = agent.act(old_obs[rows], old_actions.long()[rows])
                log_ratio = logs - old_logs[rows]
                ratio = log_ratio.exp()
                with torch.no_grad():
                    ((ratio - 1) - log_ratio).mean()
                    fractions.append(((ratio - 1.0).abs() > CLIP).float().mean().item())
                chosen = old_advantages[rows]
                chosen = (chosen - chosen.mean()) / (chosen.std() + 1e-8)
                policy_loss = torch.max(-chosen * ratio, -chosen * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                new_values = new_values.view(-1)
                held = old_values[rows] + (new_values - old_values[rows]).clamp(-CLIP, CLIP)
                errors = torch.max((new_values - old_returns[rows]) ** 2, (held - old_returns[rows]) ** 2)
                loss = policy_loss - ENTROPY * entropy.mean() + VALUE * 0.5 * errors.mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    envs.close()


def stable_baselines3(iterations: int) -> None:
    """Train `PPO` of stable-baselines3."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=ENVS, seed=0),
        learning_rate=lambda left: LR * left,
        n_steps=STEPS,
        batch_size=BATCH // MINIBATCHES,
        n_epochs=EPOCHS,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        clip_range=CLIP,
        clip_range_vf=CLIP,
        ent_coef=ENTROPY,
        vf_coef=VALUE,
        device="cpu",
        seed=0,
    ).learn(iterations * BATCH)


def lrflow(iterations: int) -> None:
    """Run the recipe through lrflow's command line, including metrics and metrics.csv."""
    from lrflow.cli import main

    with tempfile.TemporaryDirectory() as folder:
        overrides = ["recipe=rl_ppo", f"trainer.max_samples={iterations * BATCH}", "task.test=false"]
        overrides += [f"output={folder}", "trainer.progress=false", "trainer.accelerator=cpu"]
        overrides += ["trainer.limit_val_batches=0", "trainer.checkpoint.monitor=null"]
        with contextlib.redirect_stdout(io.StringIO()):
            failed = main(overrides)
        if failed:
            raise RuntimeError("lrflow's run failed")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each loop")
    parser.add_argument("--iterations", type=int, default=40, help="iterations (512 environment steps) to measure")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    loops: dict[str, Callable[[int], None]] = {
        "lrflow": lrflow,
        "CleanRL's loop": cleanrl,
        "stable-baselines3": stable_baselines3,
    }
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop(2)  # imports, first calls
    for _ in range(asked.rounds):
        for name, loop in loops.items():
            # The difference between a long and a short run, so that startup cancels out.
            begun = time.process_time()
            loop(2)
            between = time.process_time()
            loop(2 + asked.iterations)
            seconds = (time.process_time() - between) - (between - begun)
            speeds[name].append(asked.iterations * BATCH / seconds)
            print(f"{name}: {speeds[name][-1]:,.0f} environment steps per CPU second", flush=True)
    own = statistics.median(speeds["lrflow"])
    for name, found in speeds.items():
        median = statistics.median(found)
        print(f"{name}: median {median:,.0f}, lrflow is {own / median:.2f} times as fast")


if __name__ == "__main__":
    main()
