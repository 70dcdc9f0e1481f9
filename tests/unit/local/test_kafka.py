"""The broker out of wheels, as far as no broker is needed."""

import re

from pipeline.local.kafka import cluster_id


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    for _ in range(2_000):  # one draw in 64 would begin with "-"
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", cluster_id())
