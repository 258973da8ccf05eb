import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """On tensors as small as these, threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
