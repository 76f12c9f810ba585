"""A collapse is not silent: eval() warns of it once, and the output tells its occupancy."""

import copy
import warnings

import pytest
import torch
from conftest import make_batch

from gumbelpool import CollapseWarning, GumbelPool, data_checks, occupancy

BATCH = make_batch((9, 1, 12, 7), channels=3, seed=1)
CALL = BATCH.arguments()
N, K = BATCH.num_nodes, 4
LEVEL = 0.1 * torch.tensor([1.0, 0.0, -1.0, 0.5]).expand(N, K)  # undecided, the first leads


def eval_pool(**options):
    return GumbelPool(3, options.pop("num_clusters", K), **options).eval()


def said(pool, **call):
    """How often it warns in one call, of a collapse alone."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool(**CALL | call)
    assert all(warning.category is CollapseWarning for warning in caught)
    return len(caught)


def test_eval_warns_where_undecided_scores_all_lead_to_one_cluster():
    with pytest.warns(CollapseWarning, match=r"^GumbelPool in eval\(\)") as caught:
        eval_pool()(**CALL, logits=LEVEL)
    (warning,) = caught
    assert warning.filename == __file__  # it points to the call of the layer
    text = str(warning.message)
    for help_ in ("3 of 3 graphs", "balance", "sample_in_eval=True"):
        assert help_ in text


def test_it_is_said_once_per_layer():
    pool = eval_pool()
    assert [said(pool, logits=LEVEL) for _ in range(3)] == [1, 0, 0]
    assert said(eval_pool(), logits=LEVEL) == 1
    assert said(copy.deepcopy(pool), logits=LEVEL) == 0


def test_it_is_said_of_the_head_and_whatever_the_losses():
    for options in ({"losses": ()}, {"drop_empty": True}, {"ratio": 0.5}, {"aggr": "mean"}):
        pool = eval_pool(**options)
        with torch.no_grad():
            pool.lin.weight.zero_()
            pool.lin.bias.copy_(LEVEL[0])
        assert said(pool) == 1
        assert said(pool) == 0


def test_a_filter_may_ignore_it_or_make_it_an_error():
    pool = eval_pool()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        with pytest.raises(CollapseWarning):
            pool(**CALL, logits=LEVEL)
        pool(**CALL, logits=LEVEL)  # once
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore", CollapseWarning)
        eval_pool()(**CALL, logits=LEVEL)
    assert not caught


def test_it_is_not_said_where_nothing_has_collapsed():
    spread = LEVEL.clone()
    spread[::2, 1] = 0.5
    assert said(eval_pool(), logits=spread) == 0


def test_it_is_said_where_nearly_every_graph_has_collapsed():
    sizes = [12] * 40
    batch = make_batch(sizes, channels=3, seed=2)
    level = 0.1 * torch.tensor([1.0, 0.0, -1.0, 0.5]).repeat(len(batch.batch), 1)
    for spread_graphs, expected in ((1, 1), (8, 0)):
        logits = level.clone()
        logits[: 12 * spread_graphs : 2, 1] = 0.5
        assert said(eval_pool(), **batch.arguments(), logits=logits) == expected


def test_it_is_not_said_where_scores_are_decided():
    assert said(eval_pool(), logits=100 * LEVEL) == 0


def test_it_is_not_said_of_draws():
    assert said(eval_pool(sample_in_eval=True), logits=LEVEL) == 0
    assert said(GumbelPool(3, K), logits=LEVEL) == 0


def test_it_is_not_said_where_there_is_nothing_to_divide():
    assert said(eval_pool(num_clusters=1)) == 0
    assert said(eval_pool(ratio=0.05), logits=LEVEL) == 0  # K_g = 1
    single = make_batch((1,) * 30, channels=3)
    assert said(eval_pool(), **single.arguments(), logits=LEVEL[:1].repeat(30, 1)) == 0
    nothing = make_batch((0, 0), channels=3)
    assert said(eval_pool(), **nothing.arguments(), logits=LEVEL[:0]) == 0
    pair = make_batch((2,), channels=3)  # as likely by chance
    assert said(eval_pool(), **pair.arguments(), logits=LEVEL[:2]) == 0


def test_it_does_not_need_the_data_checks():
    with data_checks(False):
        assert said(eval_pool(), logits=LEVEL) == 1


# Occupancy of an output


@pytest.mark.parametrize("drop_empty", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_an_output_tells_its_occupancy(drop_empty, training):
    out = GumbelPool(3, K, drop_empty=drop_empty).train(training)(**CALL, logits=200 * LEVEL)
    expected = occupancy(out.cluster, BATCH.batch, BATCH.num_graphs)
    for have, want in zip(out.occupancy(), expected, strict=True):
        assert torch.equal(have, want)
    if not training:
        assert out.occupancy().used.tolist() == [1] * 4
        assert out.occupancy().largest_share.tolist() == [1.0] * 4


def test_the_occupancy_of_graphs_without_nodes_is_zero():
    batch = make_batch((3, 0, 4, 0), channels=3)
    for drop_empty, graphs in ((True, 3), (False, 4)):
        out = GumbelPool(3, K, drop_empty=drop_empty)(**batch.arguments())
        assert out.occupancy().used.shape == (graphs,)
        assert out.occupancy(batch_size=6).used.tolist()[3:] == [0, 0, 0]
    nothing = make_batch((0, 0), channels=3)
    for drop_empty, graphs in ((True, 0), (False, 2)):
        out = GumbelPool(3, K, drop_empty=drop_empty)(**nothing.arguments())
        assert out.occupancy().used.tolist() == [0] * graphs


def test_the_occupancy_of_an_output_without_a_batch_is_that_of_one_graph():
    given = CALL | {"batch": None, "batch_size": None}
    out = GumbelPool(3, K).eval()(**given, logits=200 * LEVEL)
    assert out.occupancy().used.tolist() == [1]
    assert out.occupancy().perplexity.tolist() == [1.0]


def test_a_batch_size_too_small_for_the_output_is_named():
    with pytest.raises(ValueError, match="batch_size"):
        GumbelPool(3, K)(**CALL).occupancy(batch_size=2)
