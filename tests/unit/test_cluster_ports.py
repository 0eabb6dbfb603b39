import socket

from cluster.ports import REPLICA_RANGES, choose, is_free


def test_ports_are_all_different_and_kept_while_free() -> None:
    first = choose(8000, None)
    numbers = list(first.model_dump().values())
    assert len(set(numbers)) == len(numbers)
    assert choose(8000, first) == first


def test_a_taken_internal_port_is_replaced() -> None:
    kept = choose(8000, None)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # earlier connections may linger
        taken.bind(("127.0.0.1", kept.valkey))
        taken.listen()
        chosen = choose(8000, kept)
    assert chosen.valkey != kept.valkey
    assert chosen.milvus == kept.milvus


def test_a_port_taken_on_one_address_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not is_free(taken.getsockname()[1])


def test_another_home_gets_another_range_of_replica_ports() -> None:
    with socket.socket() as taken:
        first = choose(8000, None).replicas
        taken.bind(("127.0.0.1", first))
        taken.listen()
        second = choose(8001, None).replicas
    assert second != first
    assert second in REPLICA_RANGES
