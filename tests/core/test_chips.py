from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.chips import (
    ACCELERATOR_TYPES,
    CHIPS,
    chip_of_nvidia,
    nearest_accelerator_types,
    parse_accelerator_type,
    topology_of,
    unknown_accelerator_type,
)


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


@pytest.mark.parametrize(
    ("text", "chips", "hosts"),
    [
        ("v2-8", 4, 1),
        ("v2-32", 16, 4),
        ("v2-512", 256, 64),
        ("v3-2048", 1024, 256),
        ("v4-8", 4, 1),
        ("v4-16", 8, 2),
        ("v4-32", 16, 4),
        ("v4-4096", 2048, 512),
        ("v5p-8", 4, 1),
        ("v5p-12288", 6144, 1536),
        ("v5litepod-1", 1, 1),
        ("v5litepod-4", 4, 1),
        ("v5litepod-8", 8, 1),
        ("v5litepod-16", 16, 4),
        ("v5litepod-256", 256, 64),
        ("v6e-8", 8, 1),
        ("v6e-32", 32, 8),
        ("v4-2x2x2", 8, 2),
        ("v6e-2x4", 8, 1),
        ("v6e-4x4", 16, 4),
    ],
)
def test_tpu_types_tell_machines(text: str, chips: int, hosts: int) -> None:
    found = parse_accelerator_type(text)
    assert (found.chips, found.hosts) == (chips, hosts)
    assert unknown_accelerator_type(text) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v4-48", "Cloud TPU makes no 'v4-48'; did you mean 'v4-64' or 'v4-32'"),
        ("v5e-16", "did you mean 'v5litepod-16'"),
        ("v5lite-4", "did you mean 'v5litepod-4'"),
        ("v6e16", "did you mean 'v6e-16'"),
        ("v6e-512", "did you mean 'v6e-256'"),
        ("v5litpod-16", "did you mean 'v5litepod-16'"),
        ("tpu7x-4x4x4", "the Cloud TPU API does not offer it"),
        ("tpu7x-standard-4t", "the Cloud TPU API does not offer it"),
        ("v7x-8", "the Cloud TPU API does not offer it"),
        ("h100", "expected text such as v4-32"),
    ],
)
def test_an_unknown_type_is_told_with_the_nearest(text: str, said: str) -> None:
    assert said in unknown_accelerator_type(text)


def test_every_type_of_the_table_is_read() -> None:
    assert all(unknown_accelerator_type(text) == "" for text in ACCELERATOR_TYPES)
    assert all(nearest_accelerator_types(text)[0] == text for text in ACCELERATOR_TYPES)


def test_a_request_in_cores_is_met_with_a_warning() -> None:
    v4, v6e = parse_accelerator_type("v4-32"), parse_accelerator_type("v6e-16")
    assert (v4.holds(32), v4.holds(33), v6e.holds(16), v6e.holds(17)) == (True, False, True, False)
    assert "16 chips are on 4 machines; write min_chips: 16" in v4.counted_in_cores(32)
    assert v4.counted_in_cores(16) == v4.counted_in_cores(33) == v6e.counted_in_cores(16) == ""
    assert (v4.counts_cores, v6e.counts_cores) == (True, False)


def test_a_topology_is_told_from_a_number() -> None:
    assert topology_of("v4-2x2x2") == ("v4", "2x2x2")
    assert topology_of("v5e-2x4") == ("v5litepod", "2x4")
    assert topology_of("v4-32") is None


@given(st.text(max_size=30))
def test_any_text_is_a_type_or_told(text: str) -> None:
    unknown_accelerator_type(text)
    nearest_accelerator_types(text)
