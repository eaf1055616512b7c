"""3-D tissue from serial sections: layers of points, registered by ICP on a cross of two bands."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="pointcloud-recon3d",
    title="A general computationally-efficient 3D reconstruction pipeline for multiple images with point clouds",
    summary="Tumour and tissue of a stack of stained sections, or of a volume, as one registered 3-D point cloud.",
    paper=Paper(
        title="A General Computationally-Efficient 3D Reconstruction Pipeline for Multiple Images with Point Clouds",
        authors=("Qingyang Wu", "Yiqing Shen", "Jing Ke"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_19",
    ),
    task="reconstruction",
    modality="histology: serial H&E sections, whole slides; also CT and MR volumes",
    inputs=(
        Input("sections", "images", "layers from bottom to top: a folder, files in order, a multi-page TIFF, "
              "whole slides, masks, or a volume", required=True),
        Input("masks", "images", "folder or multi-page TIFF of tumour masks, one per layer; replaces the network"),
        Input("spacing", "number", "width and height of a pixel and distance of layers in µm; two numbers: pixel and "
              "distance; one: all", minimum=1e-6, many=True),
        Input("threshold", "number", "probability from which a pixel is tumour", default=0.5, minimum=0.0, maximum=1.0),
        Input("register", "flag", "move the layers onto each other; by default for all but DICOM and NIfTI volumes"),
        Input("band", "text", "points that registration uses: all, auto (the paper: densest cross of two bands), "
              "random (a third), or UMIN,UMAX,VMIN,VMAX in pixels", default="all"),
        Input("band_mode", "choice", "points in either band, or only where they cross", default="or",
              choices=("or", "and")),
        Input("d_max", "number", "greatest distance of paired points, px; else 5 % of the layer's diagonal",
              minimum=0.1),
        Input("reference", "choice", "what a layer is moved onto: the one below, or the last three together",
              default="chain", choices=("chain", "rolling")),
        Input("allow_flip", "flag", "try each layer turned over, too", default=False),
        Input("downsample", "integer", "pixels per point and axis; 1 up to 1,250 px, 16 at 20,000 px", minimum=1),
        Input("max_points", "integer", "points kept of each kind and layer, at random", default=20_000, minimum=50),
        Input("z_factor", "integer", "planes per layer in z", default=4, minimum=1, maximum=64),
        Input("interpolate", "flag", "fill the planes between two layers with the nearer one's points", default=True),
        Input("mesh", "flag", "also save the surfaces of tumour and tissue, as PLY and OBJ", default=False),
        Input("views", "integer", "also save this many views around the specimen", default=0, minimum=0, maximum=72),
        Input("gif", "flag", "also save the views as an animation", default=False),
        Input("working_size", "integer", "sections with a longer side are read at a reduced size", default=2048,
              minimum=64),
    ),
    outputs=(
        Output("points", "registered x, y, z of tumour and tissue, with label, layer and density; saved as PLY"),
        Output("transforms", "angle and shift of each layer"),
        Output("layers", "of each layer: RMSE on selected and on all points, inliers, iterations, seconds, flags"),
        Output("meshes", "surfaces of tumour and tissue, with mesh=true"),
    ),
    model="zoo.models.pointcloud_recon3d.model:PointCloudRecon3D",
    labels=("tissue", "tumour"),
    training="zoo.models.pointcloud_recon3d.training:training",
    claim="zoo.models.pointcloud_recon3d.claim:claim",
    operators=("icp", "nearest_neighbors"),
    extras=("imaging",),
    weights=WeightsInfo(
        trained_on="phantom:serial-sections (14 stacks of 8 procedural sections)",
        command="zoo train pointcloud-recon3d --data 'phantom:serial-sections?n=20' --preset demo --out DIR",
        metrics={
            # zoo evaluate pointcloud-recon3d --data "phantom:serial-sections?n=20"
            "Dice, 4 held-out stacks": 0.897,
            "sensitivity, 4 held-out stacks": 0.871,
            "specificity, 4 held-out stacks": 0.988,
            "true error of layers, px, before registration": 6.21,
            "true error of layers, px, after registration": 1.46,
        },
    ),
    sample="sample:anatomical",
    phantom="phantom:serial-sections",
    licence_notes="The weights in the package were trained on procedural images only and are Apache-2.0.",
    departures=(
        Departure("All points of a layer are registered; band=auto is the paper's cross.", "In the claim the cross "
                  "lies farther off than all points and than a random third, if not for certain.", "see the claim"),
        Departure("The cross is all points in either band, a third of the layer.", "Algorithm 1 prints the "
                  "intersection; text and figure describe bands.", "see the claim's arm band and"),
        Departure("Registration is solved in the plane of the layer.", "In space it is degenerate: all points of a "
                  "layer share their z."),
        Departure("RMSE is reported of the chosen pairs and of the whole layer.", "The paper gives one number, of the "
                  "chosen pairs, which flatters the cross."),
        Departure("Reach, iterations, start and thinning of ICP are our choice.", "Not stated."),
        Departure("Sizes and rates of the segmenter are those of MedT.", "The paper builds on it and gives no values."),
    ),
)  # fmt: skip
