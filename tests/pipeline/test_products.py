"""Faster products are used only where they are float32 products, and the setting from before comes back."""

from __future__ import annotations

import pytest
import torch

from rwkvquant.pipeline import products

CPU = torch.device("cpu")


def test_the_setting_from_before_comes_back() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), products.fast_products(CPU):
        a, b = products._operands(300)
        torch.testing.assert_close((a @ b).double(), a.double() @ b.double(), rtol=1e-4, atol=1e-4)
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


def test_products_that_are_not_float32_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "FLOAT32_ERROR", 1e-9)  # as if this CPU multiplied in bfloat16
    before = torch.get_float32_matmul_precision()
    with products.fast_products(CPU):
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_a_job_on_a_gpu_multiplies_in_float32(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "medium" and "high" are TF32 there, whatever a product on the CPU shows. No product is tried."""
    monkeypatch.delattr(products, "_exact")
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with products.fast_products(torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(usual)


def test_the_rate_is_that_of_some_product() -> None:
    assert 1e8 < products.product_rate(0.05) < 1e14
