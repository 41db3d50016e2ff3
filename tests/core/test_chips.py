from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.chips import CHIPS, chip_of_nvidia, parse_accelerator_type


@pytest.mark.parametrize(
    ("product", "memory", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", 81_559, "h100"),
        ("NVIDIA H100 NVL", 95_830, "h100"),
        ("NVIDIA H200", 143_771, "h200"),
        ("NVIDIA B200", 183_359, "b200"),
        ("NVIDIA GB10", None, "gb10"),
        ("NVIDIA A100-SXM4-80GB", 81_920, "a100-sxm4-80gb"),
        ("NVIDIA A100 80GB PCIe", 81_920, "a100-sxm4-80gb"),
        ("NVIDIA A100-PCIE-40GB", 40_960, "a100-pcie-40gb"),
        ("A100-SXM4-80GB", None, "a100-sxm4-80gb"),
        ("NVIDIA RTX A6000", 49_140, "a6000"),
        ("NVIDIA RTX 6000 Ada Generation", 49_140, "ada6000"),
        ("NVIDIA L40", 46_068, "l40"),
        ("NVIDIA L40S", 46_068, "l40s"),
        ("NVIDIA DRIVE-PG199-PROD", 32_768, "drive-pg199"),
        ("NVIDIA GeForce RTX 5090", 32_607, "rtx5090"),
        ("NVIDIA GB200", 189_471, None),
        ("Tesla V100-SXM2-16GB", 16_384, None),
        ("", None, None),
    ],
)
def test_product_names_of_nvidia_smi_map_to_chips(product: str, memory: int | None, chip: str | None) -> None:
    assert chip_of_nvidia(product, memory) == chip


@pytest.mark.parametrize(
    ("text", "chip", "count", "chips"),
    [
        ("v4-32", "tpu-v4", 32, 16),
        ("v2-8", "tpu-v2", 8, 4),
        ("v3-8", "tpu-v3", 8, 4),
        ("v5p-8", "tpu-v5p", 8, 4),
        ("v5e-16", "tpu-v5e", 16, 16),
        ("v5litepod-16", "tpu-v5e", 16, 16),
        ("v6e-4", "tpu-v6e", 4, 4),
        ("v4-2x2x2", "tpu-v4", 16, 8),
    ],
)
def test_tpu_types_tell_chip_and_counts(text: str, chip: str, count: int, chips: int) -> None:
    found = parse_accelerator_type(text)
    assert (found.chip, found.count, found.chips) == (chip, count, chips)


@pytest.mark.parametrize(
    "text", ["", "v4", "v9-8", "v4-", "h100", "v4-0", "v4-1", "V4-32", "v4-32\n", "v4-2x", "v4-" + "9" * 30]
)
def test_other_tpu_types_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TPU"):
        parse_accelerator_type(text)


@given(st.text(max_size=60), st.none() | st.integers(0, 200_000))
def test_any_product_name_maps_to_a_known_chip_or_none(product: str, memory: int | None) -> None:
    assert chip_of_nvidia(product, memory) in {*CHIPS, None}
