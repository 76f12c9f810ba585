"""A call leaves nothing behind: not in memory that is used again, not for another thread."""

import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ESTIMATORS, downstream, generator, make_batch, randn
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import gumbelpool
from gumbelpool import GumbelPool, data_checks

PACKAGE = str(Path(gumbelpool.__file__).parent)
BATCH = make_batch((40, 1, 30, 0, 25), channels=6, attr=2, weighted=True, loops=True, seed=3)


def make_pool(estimator="gumbel"):
    """The same layer each time, whatever torch's own generator has given to others meanwhile."""
    pool = GumbelPool(6, 4, estimator=estimator, drop_empty=True, block_size=16).double()
    with torch.no_grad():
        pool.lin.weight.copy_(randn(4, 6, seed=5))
        pool.lin.bias.copy_(randn(4, seed=6))
    return pool


def step(estimator="gumbel", seed=0):
    """One training step: every output and every gradient, as one flat list of tensors."""
    pool, given = make_pool(estimator), BATCH.arguments("x", "edge_weight", "edge_attr")
    out = pool(**given, generator=generator(seed))
    downstream(out).backward()
    leaves = (given["x"], given["edge_weight"], given["edge_attr"], *pool.parameters())
    fields = (out.x, out.edge_index, out.edge_weight, out.edge_attr, out.cluster, out.batch)
    return [tensor.detach() for tensor in (*fields, *(leaf.grad for leaf in leaves))]


def assert_same(actual, expected):
    for have, want in zip(actual, expected, strict=True):
        assert torch.equal(have, want)


def infer():
    with torch.inference_mode():
        make_pool()(**BATCH.arguments())


def on_meta_device():
    pool = make_pool()
    with torch.device("meta"):
        pool(**BATCH.arguments())


def with_meta_tensors():
    given = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in BATCH.arguments().items()}
    make_pool().to("meta")(**given)


def with_fake_tensors():
    pool = make_pool()
    with FakeTensorMode(allow_non_fake_inputs=True), data_checks(False):
        pool(**BATCH.arguments())


def in_fresh_thread(function):
    """What the function gives in a thread that has not called the package yet.

    So that what one test spoils, no other one finds.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(function).result()


@pytest.mark.parametrize("other", [infer, on_meta_device, with_meta_tensors, with_fake_tensors])
@pytest.mark.parametrize("first", [True, False])
def test_a_call_of_another_kind_leaves_later_calls_as_they_were(other, first):
    def run():
        if not first:
            step()
        with suppress(Exception):  # whether such a call works is not the question here
            other()
        return step()

    assert_same(in_fresh_thread(run), in_fresh_thread(step))


class InterruptedOperation(TorchDispatchMode):
    """A KeyboardInterrupt in place of the n-th operation of torch."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))


@contextmanager
def interrupted_line(n):
    """A KeyboardInterrupt before the n-th line of the package that runs."""
    left = itertools.count(n, -1)

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and next(left) <= 0:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(
    ("interrupted", "moments"),
    [(InterruptedOperation, range(0, 400, 4)), (interrupted_line, range(0, 1200, 12))],
)
def test_an_interrupt_leaves_later_calls_as_they_were(interrupted, moments):
    expected = in_fresh_thread(step)

    def run(n):
        try:
            with interrupted(n):
                step()
        except KeyboardInterrupt:
            return True, step()
        return False, step()

    hits = 0
    for n in moments:
        hit, later = in_fresh_thread(partial(run, n))
        assert_same(later, expected)
        hits += hit
    assert hits > 5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_threads_at_once_give_what_they_give_in_turn(estimator):
    expected = [in_fresh_thread(partial(step, estimator, seed)) for seed in range(4)]
    start = threading.Barrier(4)

    def run(seed):
        start.wait()
        return [step(estimator, seed) for _ in range(3)]

    with ThreadPoolExecutor(max_workers=4) as executor:
        for seed, results in enumerate(executor.map(run, range(4))):
            for result in results:
                assert_same(result, expected[seed])


@pytest.mark.parametrize("num_clusters", [3, 40_000])
def test_backward_may_run_inside_autocast(num_clusters):
    """With that many clusters there are more slots than a table of the nodes has room for."""
    given = BATCH.arguments()
    given = {k: v.float() if k in ("x", "edge_weight") else v for k, v in given.items()}
    logits = randn(BATCH.num_nodes, num_clusters, seed=7).float()

    def gradient(enabled):
        theta = logits.clone().requires_grad_()
        pool = GumbelPool(6, num_clusters, estimator="straight_through", drop_empty=True)
        out = pool(**given | {"edge_attr": None}, logits=theta, generator=generator(2))
        loss = out.x.square().mean() + out.edge_weight.square().mean() + out.loss
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss.backward()
        return theta.grad

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-5, atol=1e-9)
