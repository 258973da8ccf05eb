from __future__ import annotations

import numpy as np

from rwkvquant.kernels.state import Dims, State

DIMS = Dims(layers=2, width=12, hidden=48, vocab=256, heads=3, head_size=4, ranks={"Rw": 8})


def numbered(batch: int) -> State:
    """A state in which sequence b holds only the number b."""
    b = np.arange(batch, dtype=np.float32)
    shift = np.broadcast_to(b[None, :, None], (2, batch, 12))
    return State(shift.copy(), shift.copy(), np.broadcast_to(b[None, :, None, None, None], (2, batch, 3, 4, 4)).copy())


def test_a_new_state_is_zero_in_the_documented_shapes() -> None:
    state = State.zeros(DIMS, batch=5)
    assert state.att_shift.shape == state.ffn_shift.shape == (2, 5, 12)
    assert state.wkv.shape == (2, 5, 3, 4, 4)
    assert state.batch == 5 and State.zeros(DIMS).batch == 1
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
