from cluster.backoff import Backoff


def test_waits_double_up_to_half_a_minute() -> None:
    backoff = Backoff()
    delays = [backoff.next(now=float(second)) for second in range(10)]
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_a_calm_time_begins_anew() -> None:
    backoff = Backoff()
    backoff.next(now=0.0)
    assert backoff.next(now=1.0) == 0.4
    assert backoff.next(now=60.0) == 0.2
