import numpy as np
import pytest

from nutshell.codec.planes import CodePlanes


def test_planes_hold_integers_only():
    planes = CodePlanes(np.zeros((2, 3), np.int8), {"scale": np.ones(2, np.float16)}, {"grid": "int6"})
    assert planes.sides["scale"].dtype == np.float16
    with pytest.raises(AssertionError, match="codes are integers, got float32"):
        CodePlanes(np.zeros(3, np.float32))
