"""All pigmented lesions of one procedural patient, photographed with one device.

Naevi of one patient resemble each other: they share how dark they are and what pattern they show. A melanoma is either
plain to see by itself, or an *ugly duckling*: a naevus like any other patient's, but not like this patient's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.data.case import Case
from zoo.data.dermoscopy import SITES
from zoo.data.phantoms.skin import ARTIFACTS, DEVICES, Person, draw_lesion
from zoo.errors import DataError

SITE_SHARES = (0.08, 0.05, 0.02, 0.28, 0.17, 0.40)  # of SITES
SITE_DARKNESS = (-0.25, 0.30, 0.20, 0.15, -0.10, 0.0)  # how much darker a naevus is there than on the torso
DARKNESS = (0.30, 1.20)  # of naevi, from patient to patient


def patients(
    seed: int,
    *,
    size: int = 96,
    lesions: int | None = None,
    outliers: float = 0.5,
    risk: float = 0.08,
    risk_by_age: bool = True,
    signature: bool = True,
    device: str | None = None,
    artifacts: str | None = None,
) -> Case:
    """All lesions of one patient: naevi that look alike, melanomas that stand out by themselves or among them.

    How dark a duckling is follows the same distribution as in naevi, so that no image by itself tells the two apart:
    it lies half the range of darkness away from what is usual for the patient.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height of every image, px (32 to 1024).
        lesions: how many, 1 to 500; when not given, 2 to 30 with a mean of about 10.
        outliers: share of the melanomas that are ugly ducklings, 0 to 1; the others are plain to see.
        risk: share of lesions that are melanomas, at the age of 52.
        risk_by_age: whether it is less in younger patients and more in older ones, or the same in all.
        signature: whether the naevi of a patient resemble each other; without it there are no ducklings to see.
        device: one of the skin-lesion phantom's devices; drawn from the seed when not given.
        artifacts: as in the skin-lesion phantom; by the device's habits when not given.

    Returns:
        A case whose ``images`` are the lesions, each a uint8 [h w 3] picture with its mask, the label benign or
        melanoma, and the attributes ``site`` and ``duckling``. The case itself has the label ``melanoma`` if there is
        any, else ``benign``, and the attributes patient, age, sex and device.

    Raises:
        DataError: an option is out of its range.
    """
    names = None if artifacts is None else tuple(n for n in artifacts.split(",") if n and n != "none")
    for what, good, remedy in (
        ("size", 32 <= size <= 1024, "32 to 1024 px"),
        ("lesions", lesions is None or 1 <= lesions <= 500, "1 to 500"),
        ("outliers", 0 <= outliers <= 1, "0 to 1"),
        ("risk", 0 <= risk <= 1, "0 to 1"),
        ("device", device is None or device in DEVICES, ", ".join(DEVICES)),
        ("artifacts", names is None or set(names) <= set(ARTIFACTS), ", ".join((*ARTIFACTS, "none"))),
    ):
        if not good:
            raise DataError(f"the patients phantom can't draw this {what}; choose it from {remedy}")
    rng = np.random.default_rng([0x9A71, seed])
    person = Person(seed)
    device = device or str(rng.choice(list(DEVICES)))
    count = lesions or int(np.clip(rng.geometric(0.1), 2, 30))
    usual = rng.random()  # place in the range of darkness
    rate = risk * (np.clip((person.age - 20) / 32.5, 0.1, 2) if risk_by_age else 1)
    images = []
    for number, stream in enumerate(rng.spawn(count), start=1):
        place = int(stream.choice(len(SITES), p=SITE_SHARES))
        melanoma = bool(stream.random() < rate)
        duckling = melanoma and bool(stream.random() < outliers)
        own = usual if signature else stream.random()
        level = (own + 0.5 * duckling) % 1
        person.naevus_density = float(
            DARKNESS[0] + (DARKNESS[1] - DARKNESS[0]) * level + SITE_DARKNESS[place] * 0.5 + stream.normal(0, 0.04)
        )
        diagnosis = "MEL" if melanoma and not duckling else "NV"
        image, _, scene = draw_lesion(stream, person, diagnosis, device, size, artifacts=names)
        images.append(
            Case(
                image,
                f"lesion {number}",
                {"mask": scene.mask.astype(np.uint8)},
                "melanoma" if melanoma else "benign",
                {"site": SITES[place], "duckling": duckling},
            )
        )
    attributes: dict[str, Any] = {
        "patient": f"phantom-{seed}",
        "age": person.age,
        "sex": person.sex,
        "device": device,
    }
    label = "melanoma" if any(image.label == "melanoma" for image in images) else "benign"
    return Case(None, f"patients-{seed}", label=label, attributes=attributes, images=tuple(images))
