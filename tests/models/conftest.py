import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """One thread: on tensors this small, threads wait longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
