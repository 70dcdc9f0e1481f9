"""A transaction that stays open is reported, and a busy partition is not."""

from pipeline.kafka.bounds import Bounds
from pipeline.stream.transactions import LONG_SECONDS, OpenTransactions, Report


def test_a_transaction_is_reported_once_it_has_been_open_for_long() -> None:
    transactions = OpenTransactions()
    held = {3: Bounds(0, 10, 14)}

    assert transactions.update(held, 0.0) == []
    assert transactions.update(held, LONG_SECONDS - 1) == []
    assert transactions.update(held, LONG_SECONDS) == [Report(3, 10, 4, LONG_SECONDS)]
    assert transactions.seconds(3, LONG_SECONDS) == LONG_SECONDS


def test_reports_of_one_transaction_come_at_growing_intervals() -> None:
    transactions = OpenTransactions()

    reported = [
        second
        for second in range(2_000)
        if transactions.update({0: Bounds(0, 1, 2)}, float(second))
    ]

    assert reported == [60, 240, 960]


def test_a_partition_whose_transactions_end_is_not_reported() -> None:
    transactions = OpenTransactions()

    for second in range(300):
        assert transactions.update({0: Bounds(0, second, second + 5)}, float(second)) == []

    assert transactions.seconds(0, 300.0) == 1.0


def test_the_time_is_0_once_the_transaction_has_ended_or_the_partition_has_moved() -> None:
    for after in ({0: Bounds(0, 9, 9)}, {}):
        transactions = OpenTransactions()
        transactions.update({0: Bounds(0, 1, 9)}, 0.0)

        transactions.update(after, 100.0)

        assert transactions.seconds(0, 100.0) == 0.0
