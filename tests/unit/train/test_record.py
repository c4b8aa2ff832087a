from nutshell.train.record import LossWatch


def spikes(losses):
    """The steps, counted from 1, whose losses are spikes."""
    watch = LossWatch()
    return [step for step, loss in enumerate(losses, start=1) if watch.meet(loss, step)]


def test_noise_about_a_loss_that_stands_still_is_no_spike():
    assert spikes([2.0] * 40 + [2.0 + 1e-6]) == []
    assert spikes([2.0] * 40 + [2.1]) == [41]


def test_the_first_steps_only_say_what_is_usual():
    assert spikes([2.0] * 29 + [9.0]) == []
    assert spikes([2.0] * 30 + [9.0]) == [31]
