"""Validation and test of a policy over whole episodes, each with its own seed, and a GIF of one episode."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from .environments import make_environment

Policy = Callable[[np.ndarray], np.ndarray]
"""Maps observations [n, size] to actions [n] or [n, size] for the environment."""

VALIDATION_SEED, TEST_SEED = 1_000_000, 2_000_000
"""First seeds of the validation and test episodes, far from the seeds of training."""

GIF_WIDTH, GIF_FRAMES = 240, 120


class Episodes:
    """Episodes to evaluate a policy on; the only item of a validation or test loader.

    Args:
        env_id: id of the environment, see `make_environment`.
        seeds: seeds of the episodes; equal seeds give equal episodes.
        options: arguments of the environment.
        at_once: number of environments that are stepped together.
    """

    def __init__(
        self, env_id: str, seeds: Sequence[int], options: Mapping[str, Any] | None = None, at_once: int = 20
    ) -> None:
        self.env_id = env_id
        self.seeds = list(seeds)
        self.options = dict(options or {})
        self.at_once = at_once

    def loader(self) -> DataLoader[Any]:
        """Return a loader with these episodes as its only batch."""
        return DataLoader([self], batch_size=None)  # type: ignore[arg-type]

    def play(self, policy: Policy) -> np.ndarray:
        """Play all episodes.

        Returns:
            The return of each episode; [episodes], float64.
        """
        waiting = list(enumerate(self.seeds))[::-1]
        returns = np.zeros(len(self.seeds))
        envs = [make_environment(self.env_id, self.options) for _ in range(min(self.at_once, len(self.seeds)))]
        playing = []  # (environment, number of its episode, observation)
        for env in envs:
            number, seed = waiting.pop()
            playing.append((env, number, env.reset(seed=seed)[0]))
        while playing:
            actions = policy(np.stack([observation for _, _, observation in playing]).astype(np.float32))
            still = []
            for (env, number, _), action in zip(playing, actions, strict=True):
                observation, reward, terminated, truncated, _ = env.step(action)
                returns[number] += float(reward)
                if terminated or truncated:
                    if not waiting:
                        continue
                    number, seed = waiting.pop()
                    observation = env.reset(seed=seed)[0]
                still.append((env, number, observation))
            playing = still
        for env in envs:
            env.close()
        return returns

    def film(self, policy: Policy, path: Path) -> str | None:
        """Play the first episode and save it as a GIF.

        Returns:
            The reason why there is no GIF, if the environment cannot be rendered here; else None.
        """
        try:
            frames, seconds = self._frames(policy)
        except Exception as error:  # pygame and the GL backends raise exceptions of their own
            return f"no {path.name}: {self.env_id} cannot be drawn here: {error}"
        if not frames:
            return f"no {path.name}: {self.env_id} draws no pictures"
        save_gif(frames, seconds, path)
        return None

    def _frames(self, policy: Policy) -> tuple[list[np.ndarray], float]:
        """Return the frames of the first episode and the seconds per frame."""
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        if "DISPLAY" not in os.environ:
            os.environ.setdefault("MUJOCO_GL", "egl")
        env = make_environment(self.env_id, self.options, render_mode="rgb_array")
        try:
            observation, _ = env.reset(seed=self.seeds[0])
            frames, done = [env.render()], False
            while not done:
                action = policy(np.asarray(observation, dtype=np.float32)[None])[0]
                observation, _, terminated, truncated, _ = env.step(action)
                done = terminated or truncated
                frames.append(env.render())
            return [frame for frame in frames if isinstance(frame, np.ndarray)], 1 / env.metadata.get("render_fps", 30)
        finally:
            env.close()


def save_gif(frames: Sequence[np.ndarray], seconds: float, path: Path) -> None:
    """Save a small GIF in real time: 240 pixels wide, reduced to about 120 frames.

    Args:
        frames: arrays [height, width, 3], uint8.
        seconds: duration of a frame.
        path: path of the GIF.
    """
    from PIL import Image

    every = max(1, len(frames) // GIF_FRAMES)
    height, width = frames[0].shape[:2]
    size = (GIF_WIDTH, round(height * GIF_WIDTH / width))
    pictures = [Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR) for frame in frames[::every]]
    # One palette for all frames, computed from a few, so that unchanged regions take no space.
    few = np.concatenate([np.asarray(picture) for picture in pictures[:: max(1, len(pictures) // 6)]])
    palette = Image.fromarray(few).quantize(32)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    duration = max(20, round(1000 * seconds * every))  # milliseconds; viewers slow down shorter frames
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=True)


class Agent(pl.LightningModule):
    """Base class of policies that are validated and tested on `Episodes`.

    Logs `val/return` and `val/return_std`, the same under `test/`, and saves `episode.gif` in the test.
    """

    def planned(self, name: str, default: float | None = None) -> float:
        """Return a scalar of the plan for the current step; in a run, lrflow puts its own in the place of this method.

        Raises:
            LookupError: there is no run, and no default is given.
        """
        if default is None:
            raise LookupError(f"scalars.{name} has a value only in a run")
        return default

    def policy(self, observations: np.ndarray) -> np.ndarray:
        """Return the actions to evaluate, for observations [n, size] of float32."""
        raise NotImplementedError

    def validation_step(self, episodes: Episodes, batch_idx: int) -> None:
        """Play the episodes."""
        self._report("val", episodes)

    def test_step(self, episodes: Episodes, batch_idx: int) -> None:
        """Play the episodes and film the first."""
        self._report("test", episodes)
        if why_not := episodes.film(self.policy, Path(self.trainer.default_root_dir) / "episode.gif"):
            self.print(why_not)

    def _report(self, stage: str, episodes: Episodes) -> None:
        returns = episodes.play(self.policy)
        self.log(f"{stage}/return", returns.mean(), batch_size=1)
        self.log(f"{stage}/return_std", returns.std(), batch_size=1)
