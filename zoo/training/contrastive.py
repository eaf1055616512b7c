"""An encoder trained without labels: two views of an image should look alike, those of others should not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from zoo.data.augment import Crops, cropped_views
from zoo.nn.backbones import Backbone, Small
from zoo.nn.losses import contrastive_loss
from zoo.nn.schedules import cosine_schedule
from zoo.training.run import Run

VIEWS = Crops(area=(0.4, 1.0), jitter=0.3, tint=0.2)
BATCH, HEAD, TEMPERATURE = 96, 48, 0.2


def pretrain(
    make: Callable[[], Small | Backbone],
    views: UInt8[Tensor, "n 3 s s"],
    prepare: Callable[[Tensor], Tensor],
    steps: int,
    run: Run,
    name: str,
) -> nn.Module:
    """Train a new encoder, from images to features; it comes frozen and in evaluation mode.

    ``make`` draws it. ``prepare``: from images in [0, 1] to what enters it. ``name``: of the stage and its draws.
    """
    run.stage(name)
    encoder = make()
    head = nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.ReLU(), nn.Linear(encoder.width, HEAD))
    net = nn.Sequential(encoder, head)
    adam = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-5)
    schedule = cosine_schedule(adam, steps)
    net, adam, schedule = run.track(net=net, adam=adam, schedule=schedule)
    for step in run.steps(steps, description=name):
        net.train()
        places = torch.from_numpy(run.indices(len(views), min(BATCH, len(views)), step, key=name))
        rng = run.generator(f"{name} views", step)
        images = views[places].to(run.device).float() / 255
        z = net(prepare(torch.cat([cropped_views(images, rng, VIEWS), cropped_views(images, rng, VIEWS)])))
        loss = contrastive_loss(z, temperature=TEMPERATURE)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        schedule.step()
        run.log(loss=loss)
    return encoder.eval().requires_grad_(False)
