from training.schedule import lr_factor


def test_up_over_the_warm_up_and_down_over_the_last_share():
    factors = [lr_factor(step, 10, warmup=4, decay_fraction=0.5) for step in range(10)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]


def test_without_warm_up_and_decay_it_is_flat():
    assert {lr_factor(step, 5, warmup=0, decay_fraction=0.0) for step in range(5)} == {1.0}
