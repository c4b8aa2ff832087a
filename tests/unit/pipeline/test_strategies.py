import pytest

from nutshell.errors import RecipeError
from nutshell.pipeline.strategies import ChunkedSGD, Disjoint, Sliding, read_strategy
from nutshell.predict.sgd import SGDConfig


def test_a_name_alone_is_the_defaults():
    assert read_strategy("disjoint") == Disjoint()
    assert read_strategy("chunked_sgd") == ChunkedSGD()


def test_settings_stand_behind_the_name():
    assert read_strategy("sliding,stride=64, unit=stream") == Sliding(stride=64, unit="stream")
    read = read_strategy('chunked_sgd,learner.freeze=["embedding", "blocks.0.*"],learner.lr=0.5,chunk_targets=9')
    default = ChunkedSGD().learner
    learner = SGDConfig(
        lr=0.5,
        freeze=("embedding", "blocks.0.*"),
        momentum=default.momentum,
        epochs=default.epochs,
    )
    assert read == ChunkedSGD(learner=learner, chunk_targets=9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slidng", "--strategy slidng: unknown kind 'slidng' at 'strategy.kind'; did you mean 'sliding'?"),
        ("sliding,strid=3", "unknown key 'strategy.strid'; did you mean 'stride'?"),
        ("sliding,64", "'64' is no setting; write it as in 'sliding,stride=64'"),
        ("chunked_sgd,learner.lr=-1", "lr -1.0 must not be negative"),
        ("chunked_sgd,chunk_targets=0", "chunk_targets 0 must be at least 1"),
        ("sliding,unit=book", "Invalid enum value 'book'"),
        ("", "unknown kind ''"),
    ],
)
def test_what_is_no_strategy_gets_one_line(text, message):
    with pytest.raises(RecipeError) as caught:
        read_strategy(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
