"""The recipe federated on Flower: SuperLink, two SuperNodes and `flwr run` give the weights of one process.

Flower needs other versions of packages than lrflow's tests, so it has an environment of its own: `make test-federated`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from clothes import write_clothes

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = ROOT / ".venv-federated" / "bin"
pytestmark = [
    pytest.mark.skipif(not (ENVIRONMENT / "flwr").is_file(), reason="needs Flower's environment: make test-federated"),
    pytest.mark.skipif("LRFLOW_TEST_FEDERATED" not in os.environ, reason="takes a minute of CPU: make test-federated"),
    pytest.mark.timeout(1200),
]

QUICK = ["recipe=federated/fedadam", "data.facts.examples=400", "data.val_size=50", "report=false", "task.test=false"]
QUICK += ["data.clients=6", "data.per_round=3", "model.local=3 steps", "trainer.max_steps=4", "trainer.val_every=2"]
QUICK += ["trainer.checkpoint.every=1", "trainer.checkpoint.keep=null", "model.network.dropout=0.1"]
QUICK += ["scalars.client_lr={from:0.1,to:0.02}", "model.client.schedule=linear"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(folder: Path, name: str, *words: str, **environment: str) -> Iterator[None]:
    """Run one of Flower's processes; its output is in `name.log`."""
    with (folder / f"{name}.log").open("w") as out:
        process = subprocess.Popen(
            [ENVIRONMENT / words[0], *words[1:]], env=environment, cwd=folder, stdout=out, stderr=out
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`flwr run` of the recipe's app with words for lrflow, on a SuperLink with two SuperNodes."""
    address = f"127.0.0.1:{free_port()}"
    home = tmp_path / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "{address}"\ninsecure = true\n'
    )
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{ENVIRONMENT}:{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)
    link = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation", "--host", "127.0.0.1"]

    def run(*words: str) -> str:
        app = ROOT / "recipes" / "federated" / "flower"
        told = f"lrflow='{' '.join(words)}'"
        command = [ENVIRONMENT / "flwr", "run", app, "test", "--stream", "--run-config", told]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        return done.stdout + done.stderr

    def node(number: int) -> Any:
        held = f"partition-id={number} num-partitions=2"
        words = ["--insecure", "--superlink", address, "--host", "127.0.0.1", "--port", str(free_port())]
        return started(tmp_path, f"node{number}", "flower-supernode", *words, "--node-config", held, **environment)

    with started(tmp_path, "link", *link, "--port", address.rpartition(":")[2], **environment):
        wait_for(f"http://{address}/health")
        with node(0), node(1):
            yield run


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            urlopen(address, timeout=5).close()
            return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    state: Any = torch.load(run / "checkpoints" / f"step-{step:07d}.ckpt", weights_only=True)
    return state["state_dict"]


def test_a_run_of_one_process_goes_on_under_flower_with_the_same_weights(
    tmp_path: Path, lrflow_here: Callable[..., Any], flower: Callable[..., str]
) -> None:
    words = [*QUICK, f"data.root={write_clothes(tmp_path)}"]
    assert lrflow_here(*words, f"output={tmp_path}/alone").returncode == 0
    (alone,) = (tmp_path / "alone").glob("*/")
    start = alone / "checkpoints" / "step-0000002.ckpt"
    told = flower(f"resume.from={start}", f"output={tmp_path}/nodes")
    (nodes,) = (tmp_path / "nodes").glob("*/")
    assert (nodes / "checkpoints" / "step-0000004.ckpt").is_file(), told
    expected, found = weights(alone, 4), weights(nodes, 4)
    assert all(torch.equal(one, found[name]) for name, one in expected.items())
    assert not any(torch.equal(one, found[name]) for name, one in weights(alone, 2).items())


STRATEGIES = """
import types, torch, numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy
from lrflow.recipes.federated.local import Update
from lrflow.recipes.federated.model import pseudo_gradient

def replies(weights, updates):
    for one in updates:
        arrays = ArrayRecord({name: Array((weights[name] + change).numpy()) for name, change in one.change.items()})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": one.examples})})
        yield types.SimpleNamespace(content=content, has_error=lambda: False, has_content=lambda: True,
                                    metadata=types.SimpleNamespace(src_node_id=one.client), error=None)

pairs = {
    "FedAvg": (strategy.FedAvg(), lambda p: torch.optim.SGD(p, 1.0)),
    "FedAvgM": (strategy.FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
                lambda p: torch.optim.SGD(p, 0.5, momentum=0.9)),
    "FedAdagrad": (strategy.FedAdagrad(eta=0.1, tau=1e-3), lambda p: torch.optim.Adagrad(p, 0.1, eps=1e-3)),
}
for name, (theirs, make) in pairs.items():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(5))
    optimizer = make([parameter])
    for number in range(4):
        updates = [Update(i, {"w": 0.1 * torch.randn(5)}, 0.0, 10 * (i + 1), (1, 1)) for i in range(3)]
        now = {"w": parameter.detach().clone()}
        given = {"w": now["w"].numpy().copy()}
        theirs.current_arrays = ArrayRecord({"w": Array(given["w"])}) if name == "FedAvgM" else given
        aggregated, _ = theirs.aggregate_train(number + 1, list(replies(now, updates)))
        parameter.grad = pseudo_gradient(updates, [one.examples / 60 for one in updates])["w"]
        optimizer.step()
        assert np.allclose(aggregated["w"].numpy(), parameter.detach().numpy(), atol=1e-6), (name, number)
print("equal")
"""


def test_the_servers_optimizers_are_flowers_strategies(tmp_path: Path) -> None:
    (tmp_path / "strategies.py").write_text(STRATEGIES)
    done = subprocess.run([ENVIRONMENT / "python", tmp_path / "strategies.py"], capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr
