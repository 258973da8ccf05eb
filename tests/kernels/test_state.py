from __future__ import annotations

import numpy as np

from rwkvquant.architectures import Dims
from rwkvquant.kernels.state import RecurrentState, StateArray

DIMS = Dims(layers=2, width=12, hidden=48, vocab=256, heads=3, head_size=4, ranks={"Rw": 8})
SPEC = (StateArray("att_shift", ("L", "B", "C")), StateArray("ffn_shift", ("L", "B", "C")), StateArray("wkv", ("L", "B", "H", "N", "N")))
GROWING = (StateArray("keys", ("B", "L", "T", "C")),)


def numbered(batch: int) -> RecurrentState:
    """A state in which sequence b holds only the number b."""
    b = np.arange(batch, dtype=np.float32)
    shift = np.broadcast_to(b[None, :, None], (2, batch, 12))
    wkv = np.broadcast_to(b[None, :, None, None, None], (2, batch, 3, 4, 4))
    return RecurrentState(SPEC, (shift.copy(), shift.copy(), wkv.copy()))


def test_a_new_state_is_zero_in_the_documented_shapes() -> None:
    state = RecurrentState.zeros(SPEC, DIMS.by_symbol(), batch=5)
    assert state.att_shift.shape == state.ffn_shift.shape == (2, 5, 12)
    assert state.wkv.shape == (2, 5, 3, 4, 4)
    assert state.batch == 5 and RecurrentState.zeros(SPEC, DIMS.by_symbol()).batch == 1
    for array in (state.att_shift, state.ffn_shift, state.wkv):
        assert array.dtype == np.float32 and not array.any()


def test_a_copy_and_a_selection_share_nothing_with_the_state() -> None:
    state = numbered(3)
    for other in (state.copy(), state.select([0, 1, 2])):
        other.att_shift[:], other.ffn_shift[:], other.wkv[:] = 9, 9, 9
    for array in (state.att_shift, state.ffn_shift, state.wkv):
        assert set(array.ravel()) == {0, 1, 2}


def test_a_selection_keeps_drops_repeats_and_orders_sequences() -> None:
    chosen = numbered(4).select([3, 0, 3])
    assert chosen.batch == 3
    assert chosen.att_shift[1, :, 5].tolist() == chosen.ffn_shift[0, :, 0].tolist() == chosen.wkv[1, :, 2, 3, 1].tolist() == [3, 0, 3]
    assert numbered(4).select([]).batch == 0


def test_states_side_by_side_keep_their_order_and_share_nothing() -> None:
    parts = [numbered(3).select([2]), numbered(3).select([0, 1])]
    together = RecurrentState.side_by_side(parts)
    assert together.wkv[0, :, 0, 0, 0].tolist() == together.att_shift[1, :, 0].tolist() == [2, 0, 1]
    assert not any(np.shares_memory(together.wkv, part.wkv) for part in parts)


def test_an_array_may_grow_and_have_its_sequences_on_another_axis() -> None:
    state = RecurrentState.zeros(GROWING, DIMS.by_symbol(), batch=4)
    assert GROWING[0].grows and not any(array.grows for array in SPEC)
    assert state.keys.shape == (4, 2, 0, 12) and state.batch == 4
    read = state.map(lambda array: np.arange(4, dtype=np.float32)[:, None, None, None] + np.zeros((4, 2, 5, 12), np.float32))
    assert read.select([3, 1]).keys[:, 0, 0, 0].tolist() == [3, 1]
    assert RecurrentState.side_by_side([read, read]).batch == 8


def test_a_name_that_the_specification_lacks_is_no_attribute() -> None:
    assert not hasattr(numbered(1), "keys")
