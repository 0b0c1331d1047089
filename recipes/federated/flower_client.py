"""The clients of the recipe on Flower: a node trains the clients that it holds when the server asks it to.

A node holds the clients whose numbers leave `partition-id` when divided by `num-partitions`, Flower's own keys of a
node's config. Flower starts a process per message, so what only the training needs is imported there.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

if TYPE_CHECKING:
    from .data import Clients
    from .local import LocalTraining

client = ClientApp()


@client.query()
def hold(message: Message, context: Context) -> Message:
    """Reply which clients this node holds."""
    given: Any = message.content["question"]
    part, parts = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
    held = ConfigRecord({"numbers": [*range(part, given["clients"], parts)]})
    return Message(RecordDict({"clients": held}), reply_to=message)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train the clients that the message names, and reply their updates."""
    from .flower_arrays import MEASURED, array, tensor

    given: Any = message.content["round"]
    data, local = _built(given["settings"])
    weights = {name: tensor(value) for name, value in message.content.array_records["weights"].items()}
    for name, weight in weights.items():
        weight.requires_grad_(name not in given["frozen"])
    reply = RecordDict()
    for number in given["clients"]:
        update = local(weights, data.members[number], given["lr"], given["seed"])
        first, last = update.rates
        measured = {"loss": update.loss, "examples": update.examples, "first": first, "last": last}
        reply.array_records[f"{number}"] = ArrayRecord({name: array(one) for name, one in update.change.items()})
        reply.metric_records[f"{MEASURED}{number}"] = MetricRecord(measured)
    return Message(reply, reply_to=message)


@lru_cache(maxsize=1)
def _built(settings: str) -> tuple[Clients, LocalTraining]:
    """Return the data and the training of a run, from its settings; what a config may not build is an error."""
    from lrflow.config.targets import instantiate

    from .data import Clients
    from .model import FedOpt

    nodes = json.loads(settings)
    data, model = instantiate(nodes["data"], "data"), instantiate(nodes["model"], "model")
    assert isinstance(data, Clients)
    assert isinstance(model, FedOpt)
    data.prepare_data()
    data.setup("fit")
    return data, model.local
