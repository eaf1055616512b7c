"""The two sides of a training step: a client with both ends of the network, and the server with the middle.

``train_locally`` lets them speak in one process; ``messages.py`` over Flower's messages. Both do the same sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.models.splitfed_embryo.link import Link
from zoo.models.splitfed_embryo.network import Features, Part, SplitFedConfig, SplitUNet, owners

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
    client.learn(link.across(back, "gradients-down", step), more=link.across(whole, "features-up", step))
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
