import pytest

from nutshell.config.loader import decode
from nutshell.errors import RecipeError
from nutshell.optim.config import OptimConfig


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"matrix_lr": 0.0}, "matrix_lr must be positive"),
        ({"embed_lr": -1.0}, "embed_lr must be positive"),
        ({"embed_lr": 3e38}, "embed_lr must be positive and at most 1e[+]30, got 3e[+]38"),
        ({"matrix_lr": 3e38}, "matrix_lr must be positive and at most"),
        ({"adam_eps": 0.0}, "adam_eps must be positive"),
        ({"adam_beta2": 1.0}, r"adam_beta2 must lie in \[0, 1\)"),
        ({"grad_clip": 0.0}, "grad_clip must be positive"),
        ({"lr_curve": 1.5}, r"lr_curve must lie in \[0, 1\], got 1.5"),
        ({"lr_curve": 0.0}, "lr_curve is 0 throughout"),
        ({"momentum": [[0.0, 0.9], [0.5, 1.2]]}, r"momentum must lie in \[0, 1\], got 1.2"),
        ({"matrix_weight_decay": -0.1}, r"matrix_weight_decay must lie in \[0, 1e[+]06\], got -0.1"),
        ({"scalar_weight_decay": [[0.7, 0.1], [0.5, 0.2]]}, "scalar_weight_decay: the points' progress must rise"),
        ({"muon": {"steps": 0}}, "steps must be positive"),
        ({"muon": {"coefficients": "polar_express", "steps": 7}}, "polar_express has coefficients for 5 steps, got 7"),
        ({"muon": {"coefficients": "polar"}}, "polar"),
        ({"projections": "sgd"}, "sgd"),
        ({"warmdown_frac": 0.5}, "unknown key 'warmdown_frac'"),
    ],
)
def test_settings_that_cannot_be(table, message):
    with pytest.raises(RecipeError, match=message):
        decode(table, OptimConfig, where="x")


def test_curves_are_written_as_numbers_or_points():
    config = decode(
        {"momentum": 1, "lr_curve": [[0, 1], [1, 0]], "matrix_weight_decay": [[0.7, 0.1], [1.0, 0.05]]},
        OptimConfig,
        where="x",
    )
    assert config.momentum == 1.0
    assert config.lr_curve == ((0.0, 1.0), (1.0, 0.0))
    assert config.matrix_weight_decay == ((0.7, 0.1), (1.0, 0.05))
