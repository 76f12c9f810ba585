"""What is measured against: the two floors, and the bars that name them."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import peers
from benchmarks.speed.bench import peers_of
from benchmarks.speed.cases import CASES, Case, random_graph
from benchmarks.speed.report import BARS, Results, bars_table


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("used", [True, False])
def test_the_second_floor_makes_two_more_products_of_n_by_k_by_f(used):
    graphs = random_graph(3000, 6000)
    case = Case(200, lambda root: graphs, "", used=used)
    setting = peers.Setting(case, graphs, graphs.features())
    counts = []
    for make in (peers.floor, peers.floor_and_two):
        step = make(setting)
        with FlopCounterMode(display=False) as counter:
            loss, edges = step()
        loss.backward()
        assert edges == 0
        counts.append(sum(counter.get_flop_counts()["Global"].values()))
    product = 2 * 3000 * 200 * 64
    assert counts[1] - counts[0] == 2 * product
    assert counts[0] >= 3 * product


def test_every_bar_names_a_case_and_a_peer_that_is_measured_with_it():
    for bar in BARS:
        assert all(bar.peer in peers_of(case) for case in bar.cases)


def test_bars_are_met_or_missed_by_the_median():
    assert set(peers.FLOORS) <= set(peers.PEERS)
    seconds = {"gumbelpool": 1.0, "composition": 7.0, "floor + 2 products": 0.4}
    records = [
        {"threads": 1, "case": "wide-unused", "peer": peer, "round": turn, "backward": 0.0,
         "forward": value, "peak_bytes": 1}
        for peer, value in seconds.items() for turn in range(3)
    ]  # fmt: skip
    lines = bars_table(Results(records), 1)
    assert "| wide-unused | composition | ≥ 6 times faster | 7 (7–7) | met |" in lines
    missed = "| wide-unused | floor + 2 products | ≤ 2 times of its time | 2.5 (2.5–2.5) |"
    assert any(line.startswith(missed) and "missed" in line for line in lines)
    assert CASES["wide-unused"].used is False
