"""The split over messages: features up, features down, gradients up, gradients down, each a message of Flower's.

A round asks every client ``up-0``, ``down-0``, ``up-1``, .. and in the end ``train`` for front-end and back-end. The
server keeps a copy of the middle for each client; a client keeps weights and optimisers between messages and makes its
front-end's features anew when their gradient comes. Labels never leave a client, nor does the deep cut's first skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from zoo.errors import DataError
from zoo.federated import Context, State, Update
from zoo.models.splitfed_embryo.data import Shard
from zoo.models.splitfed_embryo.network import SplitUNet, part_of
from zoo.models.splitfed_embryo.rules import Aggregation
from zoo.models.splitfed_embryo.setting import Setting
from zoo.models.splitfed_embryo.sides import ClientSide, ServerSide, same_statistics


def exchanges(steps: int) -> tuple[str, ...]:
    """Of a round with so many steps at the client that has most."""
    return (*(f"{way}-{step}" for step in range(steps) for way in ("up", "down")), "train")


def sends(exchange: str) -> tuple[str, ...]:
    """The global front-end and back-end go out once a round."""
    return ("network",) if exchange == "up-0" else ()


def client(
    network: SplitUNet, data: tuple[Shard, Shard], rng: np.random.Generator, context: Context, setting: Setting
) -> Update:
    """One message in, one out; ``network`` holds front-end and back-end."""
    shard, kept = data[0], context.kept
    schedule = setting.schedule(len(shard), context.client, context.round)
    link = setting.link(context.client, context.round)
    side = ClientSide(network.train(), setting.config, setting.recipe.lr, setting.recipe.dice == "released")
    if context.exchange == "up-0":
        kept.clear()
        kept["losses"] = []
    else:
        network.load_state_dict(kept["network"])
        side.load(kept["adam"])
    way, _, number = context.exchange.partition("-")
    step = int(number or schedule.steps)
    models: dict[str, Any] = {}

    def batch(at: int) -> tuple[Tensor, Tensor]:
        x, y = schedule.batch(shard, at)
        return x.to(context.device), y.to(context.device)

    if way in ("up", "train") and "gradients" in context.received:
        side.features(batch(kept["step"])[0])  # again, now for good
        side.skip_gradient = kept["skip"].to(context.device) if "skip" in kept else None
        side.learn(context.received["gradients"]["g"])
    if way == "up" and step < schedule.steps:
        with same_statistics(network):
            z = side.features(batch(step)[0])
        models["features"] = {"z": link.across(z, "features-up", step)}
    if way == "down" and "features" in context.received:
        x, y = batch(step)
        with same_statistics(network):
            side.features(x)
        loss, gradient = side.judge(context.received["features"]["z"], y)
        models["gradients"] = {"g": link.across(gradient, "gradients-up", step)}
        kept["losses"], kept["step"] = [*kept["losses"][-schedule.per_epoch + 1 :], loss], step
        if side.skip_gradient is not None:
            kept["skip"] = side.skip_gradient.cpu()
    if way == "train":
        return Update({"network": network}, num_examples=len(shard), loss=float(np.mean(kept["losses"])))
    kept["network"] = {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}
    kept["adam"] = side.state()
    return Update(models, num_examples=len(shard))


class SplitServer:
    """The server's side of a round, and the aggregation of all three parts at its end.

    A client that fails to answer, or whose tensors have another shape than they must, is out until the next round.
    Between rounds the server's part is in ``State.own``; within one it's here, for a killed server repeats the round.
    """

    def __init__(self, setting: Setting, rule: Aggregation) -> None:
        self.setting, self.rule = setting, rule
        self.sides: dict[int, ServerSide] = {}

    def __call__(self, updates: Sequence[Update], state: State) -> State:
        way, _, number = state.exchange.partition("-")
        if way == "train":
            return self._aggregated(updates, state)
        if state.exchange == "up-0":
            self._copies([update.client for update in updates], state)
        step, down = int(number), {}
        for client in state.failed:
            self.sides.pop(client, None)
        for update in updates:
            side = self.sides.get(update.client)
            if side is None or not update.models:
                continue
            link = self.setting.link(update.client, state.round)
            z = next(iter(next(iter(update.models.values())).values())).to(self.setting.server_device)
            if not self._fits(z, side, way):
                del self.sides[update.client]
            elif way == "up":
                answer = link.across(side.answer(z), "features-down", step)
                down[update.client] = {"features": {"z": answer.cpu()}}
            else:
                answer = link.across(side.learn(z), "gradients-down", step)
                down[update.client] = {"gradients": {"g": answer.cpu()}}
        return replace(state, addressed=down)

    def _copies(self, clients: Sequence[int], state: State) -> None:
        middle = self._middle(state)
        self.sides = {}
        for client in clients:
            network = SplitUNet(self.setting.config, ("server",))
            network.load_state_dict(middle)
            network.to(self.setting.server_device).train()
            self.sides[client] = ServerSide(network, self.setting.config, self.setting.recipe.lr)

    def _middle(self, state: State) -> dict[str, Tensor]:
        known = state.own.get("server")
        return known or part_of(self.setting.initial().state_dict(), self.setting.config, ("server",))

    def _fits(self, z: Tensor, side: ServerSide, way: str) -> bool:
        if way == "down":
            return z.is_floating_point() and z.shape == side.given.shape
        config = self.setting.config
        side_length = config.image_size // (2 if config.split == "deep" else 1)
        right = (config.widths[0], side_length, side_length)
        return (
            z.is_floating_point()
            and z.ndim == 4
            and tuple(z.shape[1:]) == right
            and 0 < len(z) <= self.setting.recipe.batch_size
        )

    def _aggregated(self, updates: Sequence[Update], state: State) -> State:
        """Front-end and back-end of the clients joined with their copies of the middle, then the rule."""
        joined = []
        for update in updates:
            if update.client in self.sides:
                middle = {n: t.detach().cpu() for n, t in self.sides[update.client].network.state_dict().items()}
                one = Update({"network": {**update.models["network"], **middle}}, num_examples=update.num_examples)
                one.client, one.weight = update.client, update.weight
                joined.append(one)
        if len(joined) < 2:
            raise DataError(f"round {state.round}: {len(joined)} clients came to the end of the round; 2 are needed")
        self.sides = {}
        after, config = self.rule(joined, state), self.setting.config
        server = part_of(after.network, config, ("server",))
        return after.updated({"server": server}, network=part_of(after.network, config, ("front", "back")))
