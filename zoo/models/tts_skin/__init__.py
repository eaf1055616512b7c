"""Test-time selection: a clinician's points say which features of a trained classifier may decide."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="tts-skin",
    title="TTS: test-time selection of features by points on lesion and artifacts",
    summary="Melanoma or benign, by those features of a trained classifier that fire on the lesion a person points at.",
    paper=Paper(
        title="Test-Time Selection for Robust Skin Lesion Analysis",
        authors=("Alceu Bissoto", "Catarina Barata", "Eduardo Valle", "Sandra Avila"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        code="https://github.com/alceubissoto/skin-tts",
    ),
    task="classification",
    modality="skin: dermoscopy",
    inputs=(
        Input("image", "image", "dermoscopic colour photograph of one lesion", required=True),
        Input("positive", "point", "x,y in px of the image, on the lesion", many=True),
        Input("negative", "point", "x,y in px of the image, on skin or, better, on an artifact", many=True),
        Input("mask", "mask", "the lesion, above 0 inside, of the image's size: points are drawn in and around it"),
        Input("artifact_mask", "mask", "artifacts, above 0, of the image's size: negative points are drawn there"),
        Input("keypoints", "file", "points by image, for a folder of images: a table with the columns image, x, y, "
              "kind, or an export of Label Studio"),
        Input("auto_mask", "text", "a segmentation model of the zoo that finds the lesion where no mask is given, "
              "such as avit", default=""),
        Input("n_points", "integer", "points of each sign that are drawn from a mask", default=20, minimum=1,
              maximum=1000),
        Input("alpha", "number", "weight of the positive points against the negative; by default 0.4, and 0.2 where "
              "these mark artifacts", minimum=0, maximum=1),
        Input("keep", "number", "share of the channels that stay", default=0.1, minimum=0.001, maximum=1),
        Input("rescale", "flag", "divide what stays by its share, so that logits keep their size", default=False),
        Input("lookup", "choice", "how a map is read at a point: bilinear, or the cell it falls in, as released; by "
              "default as the weights say", choices=("bilinear", "cell")),
        Input("tta", "integer", "augmented copies to average over; 1 is the image as it is", default=50, minimum=1,
              maximum=200),
        Input("augment", "choice", "of the copies: flips and hue of the whole image, as released, or turns and crops "
              "too, as in training", default="whole", choices=("whole", "crops")),
        Input("method", "choice", "test-time selection, or what it is compared with", default="tts",
              choices=("tts", "none", "random", "noisecrop", "tent", "t3a")),
        Input("model", "text", "another classifier to select the features of: a model of the zoo, timm:NAME or "
              "hf-hub:ORG/NAME; none: these weights", default=""),
        Input("model_weights", "folder", "weights of that model of the zoo instead of its own demo"),
        Input("seed", "integer", "of drawn points, copies and random channels", default=0, minimum=0, maximum=2**31),
    ),
    outputs=(
        Output("probabilities", "by the chosen method, mean over the copies; they add up to 1"),
        Output("baseline", "the same by all channels: what the classifier says without points"),
        Output("tts_applied", "whether points chose the channels; without points they can't, and nothing is made up"),
        Output("kept_channels", "those that stay for the image as it is; of its copies each has its own"),
        Output("scores", "of every channel, Eq. 1, for the image as it is"),
        Output("attention", "mean of all channels and of those that stay, over the part of the image that is seen"),
    ),
    model="zoo.models.tts_skin.model:TtsSkin",
    labels=("benign", "melanoma"),
    training="zoo.models.tts_skin.training:training",
    claim="zoo.models.tts_skin.claim:claim",
    extras=("imaging",),
    weights=WeightsInfo(
        trained_on="phantom:skin-trap?n=400&size=96 (288 procedural images, rulers on 95 % of the melanomas)",
        command='zoo train tts-skin --data "phantom:skin-trap?n=400&size=96" --preset demo --out DIR',
        seconds=68,
        metrics={
            # zoo evaluate tts-skin --data "phantom:skin-trap?n=60&size=96&seed=5000&bias=0.05" --split all
            "AUC by selection, 60 other phantoms with the ruler's bias reversed": 0.966,
            "AUC by all channels (method=none), the same phantoms": 0.979,
            "balanced accuracy by selection, the same phantoms": 0.717,
            "balanced accuracy by all channels, the same phantoms": 0.933,
        },
    ),
    readings={
        "paper": "as printed: maps are read between cells; the default",
        "released": "as the authors' code: a point reads the cell that it falls in",
    },
    phantom="phantom:skin-trap?size=96",
    example=("positive=44,56", "negative=90,40"),
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. ISIC 2019 is CC BY-NC "
        "4.0: weights trained on it are for non-commercial use. The paper's annotated key points are not released."
    ),
    departures=(
        Departure("The classifier is ResNet-50 with ImageNet's weights.", "The paper names none; its code has it."),
        Departure(
            "Maps are read bilinearly between the centres of cells.",
            "The paper says upsampled; its code repeats each cell, which is lookup=cell and recipe=released.",
        ),
        Departure(
            "Points follow every flip, turn and crop of the copies exactly.",
            "The paper doesn't say; in the authors' code points of masks follow the wrong flip, and those of artifacts "
            "have rows and columns exchanged.",
        ),
        Departure(
            "Copies are the whole image with flips and hue, and one more pass of the image as it is makes the picture.",
            "The paper says as in training; its code tests with these. augment=crops is the training's.",
        ),
        Departure("An image without marked artifacts is ranked by positive points alone.", "So does the paper's code."),
        Departure(
            "Training draws both classes equally often and keeps the epoch of best balanced accuracy.",
            "As in the authors' code; the paper says validation performance, and nothing of sampling.",
        ),
        Departure("NoiseCrop's noise is Gaussian, with natural images' mean and deviation.", "Theirs isn't released."),
        Departure(
            "method=tent and method=t3a forget every image; the claim also has them as released, which never do.",
            "A prediction must not depend on the images before it.",
        ),
    ),
)  # fmt: skip
