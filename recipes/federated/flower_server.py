"""The recipe on Flower: the run is the ServerApp, and its rounds go to the nodes as messages.

Messages hold weights, LRs and seeds, and never an example. `flower_client.py` answers them.
"""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

import lrflow
from lrflow.config import Config
from lrflow.errors import LrflowError
from lrflow.wording import counted, joined

from .flower_arrays import MEASURED, array, tensor
from .local import Update
from .model import Round, carried_by

POLL = 0.5
"""Seconds between two looks at which nodes are connected."""

server = ServerApp()


@server.main()
def run(grid: Grid, context: Context) -> None:
    """Train as `python -m lrflow` does with the words of `lrflow` in the run config, with clients at the nodes."""
    config = lrflow.compose(*shlex.split(str(context.run_config["lrflow"])))
    with carried_by(Nodes(grid, config, float(str(context.run_config["timeout"])))):
        lrflow.train(config)


class Nodes:
    """Brings rounds to the nodes of a federation.

    Args:
        grid: connects the nodes.
        config: of the run; the nodes get its data and its model.
        timeout: seconds within which the nodes reply.

    Raises:
        LrflowError: when called, if nodes do not hold all clients, or a client does not reply.
    """

    def __init__(self, grid: Grid, config: Config, timeout: float) -> None:
        self._grid, self._timeout = grid, timeout
        self._settings = json.dumps({"data": config.data.node(), "model": config.model.node()})
        self._clients = config.data.node()["clients"]
        self._nodes: dict[int, int] = {}

    def __call__(self, made: Round) -> list[Update]:
        """Return the updates of a round's clients."""
        arrays = ArrayRecord({name: array(weight) for name, weight in made.weights.items()})
        frozen = [name for name, weight in made.weights.items() if not weight.requires_grad]
        given = {"settings": self._settings, "lr": made.lr, "seed": made.seed, "frozen": frozen}
        numbers: dict[int, list[int]] = {}
        for one in made.clients:
            numbers.setdefault(self._node(one.number), []).append(one.number)
        contents = {
            node: RecordDict({"weights": arrays, "round": ConfigRecord({**given, "clients": clients})})
            for node, clients in numbers.items()
        }
        updates = []
        for reply in self._ask(contents, MessageType.TRAIN, f"{made.number}").values():
            for name, change in reply.array_records.items():
                measured: Any = reply.metric_records[f"{MEASURED}{name}"]
                changed = {key: tensor(value) for key, value in change.items()}
                rates = (measured["first"], measured["last"])
                updates.append(Update(int(name), changed, measured["loss"], measured["examples"], rates))
        return updates

    def _node(self, number: int) -> int:
        """Return the node that holds a client."""
        if number not in self._nodes:
            self._find(number)
        return self._nodes[number]

    def _find(self, number: int) -> None:
        """Ask the nodes whom they hold, until one holds the client."""
        end = time.monotonic() + self._timeout
        asked: set[int] = set()
        while True:
            new = {*self._grid.get_node_ids()} - asked
            asked |= new
            question = RecordDict({"question": ConfigRecord({"clients": self._clients})})
            replies: Any = self._ask(dict.fromkeys(new, question), MessageType.QUERY, "")
            for node, reply in replies.items():
                self._nodes |= dict.fromkeys(reply["clients"]["numbers"], node)
            if number in self._nodes:
                return
            if time.monotonic() > end:
                raise LrflowError(f"no node holds client {number}: asked {counted(len(asked), 'node')}")
            time.sleep(POLL)

    def _ask(self, contents: dict[int, RecordDict], kind: str, group: str) -> dict[int, RecordDict]:
        """Return the replies of nodes, by node."""
        if not contents:
            return {}
        messages = [
            Message(content, dst_node_id=node, message_type=kind, group_id=group) for node, content in contents.items()
        ]
        replies = [*self._grid.send_and_receive(messages, timeout=self._timeout)]
        failures = [f"node {one.metadata.src_node_id}: {one.error.reason}" for one in replies if one.has_error()]
        silent = {*contents} - {one.metadata.src_node_id for one in replies}
        failures += [f"node {node}: no reply within {self._timeout:g} s" for node in sorted(silent)]
        if failures:
            raise LrflowError(f"round {group}: {joined(failures, 5)}" if group else joined(failures, 5))
        return {one.metadata.src_node_id: one.content for one in replies}
