"""FedAutoMRI: hospitals search the denoiser of an unrolled MR reconstruction together."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="fedautomri",
    title="FedAutoMRI: federated neural architecture search for MR image reconstruction",
    summary="MR images from fewer k-space lines, by a small unrolled network whose cell hospitals searched together.",
    paper=Paper(
        title="FedAutoMRI: Federated Neural Architecture Search for MR Image Reconstruction",
        authors=("Ruoyou Wu", "Cheng Li", "Juan Zou", "Shanshan Wang"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
    ),
    task="reconstruction",
    modality="MR: Cartesian k-space of one coil, or coil-combined",
    inputs=(
        Input("kspace", "image", "k-space: complex array, .npy, fastMRI .h5; or an image, from which it is simulated",
              required=True),
        Input("content", "choice", "what complex numbers are; auto: k-space", default="auto",
              choices=("auto", "k-space", "image")),
        Input("convention", "choice", "where frequency 0 lies; auto: where k-space is strongest, which is noted",
              default="auto", choices=("auto", "centre", "corner")),
        Input("mask", "file", "samples as .npy [w] or [h w], in the convention of the k-space; else its zeros tell"),
        Input("maps", "file", "coil sensitivities as complex .npy [c h w], of k-space from several coils"),
        Input("acceleration", "number", "of the mask by which lines of full k-space are left out", default=4.0,
              minimum=1.0, maximum=32.0),
        Input("center_fraction", "number", "share of central lines that this mask keeps", default=0.08, minimum=0.0,
              maximum=1.0),
        Input("seed", "integer", "of this mask", default=0, minimum=0, maximum=2**31 - 1),
        Input("client", "text", "whose weights; others than global exist after ema_mode=client_mix", default="global"),
        Input("slice", "integer", "of a stack, the slice that is shown; else the middle one", minimum=0),
        Input("return_intermediate", "flag", "also keep and show every unrolled iteration", default=False),
    ),
    outputs=(
        Output("output", "magnitude of the reconstruction"),
        Output("complex", "complex image of every slice"),
        Output("start", "magnitude of the zero-filled image"),
        Output("scores", "PSNR and SSIM of both, where the truth is known"),
    ),
    model="zoo.models.fedautomri.model:FedAutoMRI",
    training="zoo.models.fedautomri.training:training",
    claim="zoo.models.fedautomri.claim:claim",
    extras=("train", "federated"),
    weights=WeightsInfo(
        trained_on="phantom:k-space?n=60&size=64 (48 procedural slices on three clients)",
        command="zoo train fedautomri --data 'phantom:k-space?n=60&size=64' --preset demo --out DIR",
        metrics={
            # zoo evaluate fedautomri --data "phantom:k-space?n=20&size=64&seed=20000" --split all
            "PSNR, 4-fold, 20 other phantoms, dB": 23.73,
            "PSNR of their zero-filled images, dB": 19.90,
            "SSIM": 0.565,
            "SSIM of their zero-filled images": 0.467,
        },
    ),
    phantom="phantom:k-space?size=64",
    licence_notes="No code of the paper is released; the scheme is written from its text.",
    departures=(
        Departure(
            "Operations have no normalisation by default (network.norm=none).",
            "The paper doesn't say; DARTS has batch normalisation (network.norm=batch, an arm of the claim). Its "
            "statistics, shared over iterations and averaged over hospitals, differ from training to test; without "
            "them an edge is linear after its ReLU and is one convolution, exactly.",
        ),
        Departure(
            "Channels, cells, iterations, image size and what a cell merges are deduced or chosen.",
            "The paper states none; size and iterations follow from its parameters and operations counts. Its three "
            "nodes are all in all by default; network.wiring=darts3 has three between two that enter.",
        ),
        Departure(
            "The moving average is Adam's, corrected for its start.",
            "Eq. 7 fed back as printed multiplies the weights by 1 / (1 - gamma^t) in every round.",
        ),
        Departure(
            "An eighth of each client's training slices is the validation part for the architecture.",
            "The paper's validation part would have to be pooled, or split by client as here.",
        ),
    ),
)  # fmt: skip
