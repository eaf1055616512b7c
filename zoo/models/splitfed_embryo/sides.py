"""The two sides of a training step: a client with both ends of the network, and the server with the middle.

``train_step`` lets them speak in one process, ``SplitServer`` and ``message`` over Flower's messages: the same sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.federated import Aggregation, Context, Link, State, Update
from zoo.models.splitfed_embryo.data import Setting, Shard
from zoo.models.splitfed_embryo.network import Features, Part, SplitFedConfig, SplitUNet, owners, part_of

Images = Float[Tensor, "b 3 s s"]
Truth = Int[Tensor, "b s s"]


def soft_dice(logits: Float[Tensor, "b k s s"], y: Truth, absent_is_right: bool = False) -> Float[Tensor, ""]:
    """1 - mean over classes of 2 sum(p y) / (sum(p) + sum(y)), of all pixels of a batch (Sec. 3.1).

    1 is added to both parts; with ``absent_is_right``, the form of the same authors' later code, nothing is, and a
    class that no pixel has counts as loss 0.
    """
    p = logits.softmax(1).transpose(0, 1).flatten(1)
    truth = F.one_hot(y.long(), logits.shape[1]).movedim(-1, 0).flatten(1).to(p)
    shared, sizes = (p * truth).sum(1), p.sum(1) + truth.sum(1)
    if absent_is_right:
        return ((1 - 2 * shared / sizes.clamp(min=1e-7)) * (truth.sum(1) > 0)).mean()
    return (1 - (2 * shared + 1) / (sizes + 1)).mean()


class Side:
    """Some parts of a network, each with its own Adam (one for front, server and back-end)."""

    def __init__(self, network: SplitUNet, config: SplitFedConfig, parts: tuple[Part, ...], lr: float) -> None:
        self.network = network
        owner = owners(config)
        self.adam = {part: torch.optim.Adam(network.part_parameters(part, owner), lr=lr) for part in parts}

    def step(self, part: Part) -> None:
        self.adam[part].step()
        self.adam[part].zero_grad()

    def state(self) -> dict[str, Any]:
        """Of the optimisers, for ``Context.kept``."""
        return {part: adam.state_dict() for part, adam in self.adam.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        for part, adam in self.adam.items():
            adam.load_state_dict(state[part])


class ClientSide(Side):
    """Front-end and back-end; the labels and the loss stay here."""

    def __init__(self, network: SplitUNet, config: SplitFedConfig, lr: float, absent_is_right: bool) -> None:
        super().__init__(network, config, ("front", "back"), lr)
        self.absent_is_right = absent_is_right
        self.seen: Features | None = None
        self.skip_gradient: Tensor | None = None

    def features(self, x: Images) -> Float[Tensor, "b c h w"]:
        """What goes up, and remember how it came about."""
        self.seen = self.network.front(x)
        return self.seen.up.detach()

    def judge(self, z: Float[Tensor, "b c h w"], y: Truth) -> tuple[float, Float[Tensor, "b c h w"]]:
        """From the server's features the loss, a step of the back-end, and the gradient that goes up."""
        assert self.seen is not None
        z = z.detach().requires_grad_(True)
        skip = None if self.seen.skip is None else self.seen.skip.detach().requires_grad_(True)
        loss = soft_dice(self.network.back(z, skip), y, self.absent_is_right)
        loss.backward()
        assert z.grad is not None
        self.skip_gradient = None if skip is None else skip.grad
        self.step("back")
        return float(loss.detach()), z.grad

    def learn(self, gradient: Float[Tensor, "b c h w"], more: Tensor | None = None) -> None:
        """A step of the front-end, by the gradient that came down and (deep) that of its own skip connection.

        ``more``: a further gradient of what went up, of the leak.
        """
        assert self.seen is not None
        ends, gradients = [self.seen.up], [gradient if more is None else gradient + more]
        if self.seen.skip is not None and self.skip_gradient is not None:
            ends, gradients = [*ends, self.seen.skip], [*gradients, self.skip_gradient]
        torch.autograd.backward(ends, gradients)
        self.step("front")


class ServerSide(Side):
    """One client's copy of the middle."""

    def __init__(self, network: SplitUNet, config: SplitFedConfig, lr: float) -> None:
        super().__init__(network, config, ("server",), lr)
        self.taken = self.given = torch.zeros(0)

    def answer(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """From a client's features those that go down."""
        self.taken = z.detach().requires_grad_(True)
        self.given = self.network.server(self.taken)
        return self.given.detach()

    def learn(self, gradient: Float[Tensor, "b c2 h w"]) -> Float[Tensor, "b c h w"]:
        """A step of the server's part, and the gradient that goes down."""
        back = self.backward(gradient)
        self.step("server")
        return back

    def backward(self, gradient: Float[Tensor, "b c2 h w"], again: bool = False) -> Float[Tensor, "b c h w"]:
        """Gradients of the server's part, added to those that are there, and of what it got. ``again``: more follow."""
        self.taken.grad = None
        self.given.backward(gradient, retain_graph=again)
        assert self.taken.grad is not None
        return self.taken.grad


def train_step(client: ClientSide, server: ServerSide, x: Images, y: Truth, link: Link, step: int, leak: bool) -> float:
    """Features up, features down, gradients up, gradients down. Returns the loss.

    ``leak``: as in the same authors' later code, gradients of a first backward pass that lost nothing are never cleared
    from server and front-end, and those that crossed the link are added.
    """
    z = client.features(x)
    down = server.answer(link.across(z, "features-up", step))
    loss, gradient = client.judge(link.across(down, "features-down", step), y)
    if not leak:
        back = server.learn(link.across(gradient, "gradients-up", step))
        client.learn(link.across(back, "gradients-down", step))
        return loss
    # of the joined graph, through the masks of the features
    whole = server.backward(link.across(gradient, "features-down", step), again=True)
    back = server.learn(link.across(gradient, "gradients-up", step))
    # in one graph the server's second pass reaches the front-end too, before what crossed the link does
    client.learn(link.across(back, "gradients-down", step), more=link.across(whole + back, "features-up", step))
    return loss


@contextmanager
def same_statistics(network: nn.Module) -> Iterator[None]:
    """Whatever runs within it leaves no trace in the buffers of batch normalisation."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])


# ---- over messages ---------------------------------------------------------------------------------------------------
#
# A round asks every client up-0, down-0, up-1, .. and in the end train, for front-end and back-end. The server keeps a
# copy of the middle for each client; a client keeps weights and optimisers between messages and makes its front-end's
# features anew when their gradient comes. Labels never leave a client, nor does the deep cut's first skip.


def exchanges(steps: int) -> tuple[str, ...]:
    """Of a round with so many steps at the client that has most."""
    return (*(f"{way}-{step}" for step in range(steps) for way in ("up", "down")), "train")


def sends(exchange: str) -> tuple[str, ...]:
    """The global front-end and back-end go out once a round."""
    return ("network",) if exchange == "up-0" else ()


def message(
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
