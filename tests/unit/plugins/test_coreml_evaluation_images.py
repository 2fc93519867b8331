"""The evaluator's resizing and sampling of images, against PyTorch and TensorFlow's documented semantics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.unit.plugins.coreml_evaluation_support import Case, assert_agrees, mb, numbers


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array))


IMAGE = numbers(2, 4, 9, 7)
TI = torch.from_numpy(IMAGE)
GRID = numbers(2, 5, 6, 2, seed=9) * 0.9


def images(name: str, expected, atol: float = 1e-4, **arguments) -> Case:
    operator = name.split(",")[0]
    return Case(name, lambda x: getattr(mb, operator)(x=x, **arguments), {"x": IMAGE}, expected, atol=atol)


def torch_size(size, **arguments) -> torch.Tensor:
    return functional.interpolate(TI, size, mode="bilinear", **arguments)


def tf_default(height: int, width: int) -> np.ndarray:
    """TensorFlow's bilinear resizing without aligned corners and half pixels, one sample at a time."""
    result = np.zeros((*IMAGE.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            y, x = i * IMAGE.shape[2] / height, j * IMAGE.shape[3] / width
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, IMAGE.shape[2] - 1), min(x0 + 1, IMAGE.shape[3] - 1)
            upper = IMAGE[..., y0, x0] * (1 - (x - x0)) + IMAGE[..., y0, x1] * (x - x0)
            lower = IMAGE[..., y1, x0] * (1 - (x - x0)) + IMAGE[..., y1, x1] * (x - x0)
            result[..., i, j] = upper * (1 - (y - y0)) + lower * (y - y0)
    return result


def resampled(mode: str, padding: str, corners: bool) -> Case:
    own = {"zeros": "constant", "reflection": "reflection" if corners else "symmetric"}.get(padding, padding)
    return Case(
        f"resample, {mode}, {padding}, {corners}",
        lambda x, g: mb.resample(
            x=x,
            coordinates=g,
            sampling_mode=mode,
            padding_mode=own,
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=corners,
        ),
        {"x": IMAGE, "g": GRID},
        functional.grid_sample(TI, t(GRID), mode, padding, corners),
        atol=1e-4,
    )


IMAGES = [
    images(
        "upsample_nearest_neighbor",
        functional.interpolate(TI, scale_factor=(2, 3)),
        scale_factor_height=2,
        scale_factor_width=3,
    ),
    images(
        "upsample_nearest_neighbor, fraction",
        functional.interpolate(TI, scale_factor=(1.5, 2.5)),
        scale_factor_height=1.5,
        scale_factor_width=2.5,
    ),
    images(
        "resize_nearest_neighbor", functional.interpolate(TI, (18, 21)), target_size_height=18, target_size_width=21
    ),
    images(
        "upsample_bilinear",
        torch_size((18, 14), align_corners=True),
        scale_factor_height=2,
        scale_factor_width=2,
        align_corners=True,
    ),
    images(
        "upsample_bilinear, halves",
        torch_size((18, 14), align_corners=False),
        scale_factor_height=2,
        scale_factor_width=2,
        align_corners=False,
    ),
    images(
        "upsample_bilinear, neither",
        tf_default(18, 14),
        scale_factor_height=2,
        scale_factor_width=2,
        align_corners=False,
        half_pixel_centers=False,
    ),
    images(
        "resize_bilinear, strict",
        torch_size((5, 12), align_corners=True),
        target_size_height=5,
        target_size_width=12,
        sampling_mode="STRICT_ALIGN_CORNERS",
    ),
    images(
        "resize_bilinear, unaligned",
        torch_size((5, 12), align_corners=False),
        target_size_height=5,
        target_size_width=12,
        sampling_mode="UNALIGN_CORNERS",
    ),
    images(
        "resize_bilinear, default",
        tf_default(5, 12),
        target_size_height=5,
        target_size_width=12,
        sampling_mode="DEFAULT",
    ),
    images(
        "resize",
        torch_size((5, 12), align_corners=True),
        shape=[0, 5, 12],
        resized_dims=np.uint32(2),
        sampling_mode="ALIGN_CORNERS",
    ),
    images(
        "resize, nearest",
        functional.interpolate(TI, (9, 14)),
        shape=[0, 14],
        resized_dims=np.uint32(2),
        interpolation_mode="NEAREST_NEIGHBOR",
    ),
    *(
        resampled(mode, padding, corners)
        for mode in ("bilinear", "nearest")
        for padding in ("zeros", "border", "reflection")
        for corners in (True, False)
    ),
    images(
        "affine",
        functional.grid_sample(
            TI,
            functional.affine_grid(t(numbers(2, 2, 3, seed=8)), [2, 4, 5, 6], align_corners=True),
            align_corners=True,
        ),
        transform_matrix=numbers(2, 2, 3, seed=8).reshape(2, 6),
        output_height=5,
        output_width=6,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=True,
    ),
    Case(
        "crop_resize",
        lambda x, b: mb.crop_resize(
            x=x,
            boxes=b,
            box_indices=np.array([1, 0], np.int32),
            target_height=3,
            target_width=4,
            sampling_mode="ALIGN_CORNERS",
        ),
        {"x": IMAGE, "b": np.array([[1, 2, 5, 5], [0, 0, 8, 6]], np.float32)},
        torch.cat(
            [
                functional.interpolate(TI[1:, :, 1:6, 2:6], (3, 4), mode="bilinear", align_corners=True),
                functional.interpolate(TI[:1], (3, 4), mode="bilinear", align_corners=True),
            ]
        ),
        atol=1e-4,
    ),
    Case(
        "crop_resize, until iOS 16",
        lambda x: mb.crop_resize(
            x=x,
            roi=np.array([0, 2, 1, 5, 5], np.float32).reshape(1, 1, 5, 1, 1),
            target_height=3,
            target_width=4,
            box_coordinate_mode="CORNERS_WIDTH_FIRST",
            sampling_mode="STRICT_ALIGN_CORNERS",
        ),
        {"x": IMAGE[1:]},
        functional.interpolate(TI[1:, :, 1:6, 2:6], (3, 4), mode="bilinear", align_corners=True)[None],
        "iOS16",
        1e-4,
    ),
]


@pytest.mark.parametrize("case", IMAGES, ids=str)
def test_images_are_resized_and_sampled_as_by_pytorch(case: Case):
    assert_agrees(case)
