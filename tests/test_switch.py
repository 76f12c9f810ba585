"""The switch of the data checks: like ``torch.set_grad_enabled``, and local to its context."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gumbelpool import data_checks, sample_clusters


def checked():
    """Whether data is checked here: scores without a softmax are then refused."""
    try:
        sample_clusters(torch.full((2, 3), float("nan")))
    except ValueError:
        return True
    return False


@pytest.fixture(autouse=True)
def _checks_are_on_before_and_after():
    assert checked()
    yield
    assert checked()


@pytest.fixture
def _restored():
    yield
    data_checks(True)


@pytest.mark.parametrize("enabled", ["no", 0, 1, None, [], torch.tensor(True)])
def test_the_switch_takes_a_bool(enabled):
    with pytest.raises(TypeError, match="enabled must be True or False; got"):
        data_checks(enabled)


@pytest.mark.usefixtures("_restored")
def test_the_call_switches_for_good():
    data_checks(False)
    assert not checked()
    data_checks(True)
    assert checked()
    switch = data_checks(False)
    assert not checked()
    del switch
    assert not checked()


def test_a_block_restores_what_was_before_it():
    with data_checks(False):
        assert not checked()
        with data_checks(True):
            assert checked()
            with data_checks(False):
                assert not checked()
            assert checked()
        assert not checked()
    assert checked()


def test_a_block_restores_after_an_error():
    with pytest.raises(KeyError), data_checks(False):
        raise KeyError
    assert checked()


def test_a_block_restores_what_was_switched_for_good_within_it():
    with data_checks(False):
        data_checks(True)
        assert checked()
        data_checks(False)
    assert checked()


@pytest.mark.usefixtures("_restored")
def test_an_instance_may_be_used_again():
    switch = data_checks(False)
    for _ in range(3):
        with switch:
            assert not checked()
            with data_checks(True):
                assert checked()
                with switch:
                    assert not checked()
                assert checked()
            assert not checked()
        assert checked()
    with switch, switch, switch:
        assert not checked()
    assert checked()


def test_a_decorated_function_may_call_itself():
    switch = data_checks(False)

    @switch
    def count_down(n):
        assert not checked()
        return n if n == 0 else count_down(n - 1)

    @switch
    def other():
        return checked()

    assert checked()  # decorating switches nothing
    assert count_down(3) == 0
    assert not other()
    assert checked()
    assert count_down.__name__ == "count_down"


def test_overlapping_blocks_of_two_threads_leave_the_checks_on():
    entered, left = threading.Event(), threading.Event()

    def first():
        with data_checks(False):
            entered.set()
            left.wait(10)
            return checked()

    def second():
        entered.wait(10)
        before = checked()
        with data_checks(False):
            pass
        left.set()
        return before, checked()

    with ThreadPoolExecutor(max_workers=2) as executor:
        one, other = executor.submit(first), executor.submit(second)
        assert other.result(20) == (True, True)
        assert not one.result(20)
    assert checked()


def test_one_instance_in_two_threads():
    switch, barrier = data_checks(False), threading.Barrier(2)

    def run(_):
        with switch:
            barrier.wait(10)
            inside = checked()
            barrier.wait(10)
        return inside, checked()

    with switch, ThreadPoolExecutor(max_workers=2) as executor:
        assert list(executor.map(run, range(2))) == [(False, True)] * 2
        assert not checked()
    assert checked()


def test_overlapping_blocks_of_two_tasks_leave_the_checks_on():
    async def task(turns):
        with data_checks(False):
            for _ in range(turns):
                await asyncio.sleep(0)
                assert not checked()
        return checked()

    async def run():
        tasks = [asyncio.ensure_future(task(turns)) for turns in (1, 3, 2)]
        await asyncio.sleep(0)
        assert checked()
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [True] * 3


def test_a_copied_context_keeps_its_own():
    with data_checks(False):
        inside = contextvars.copy_context()
    assert not inside.run(checked)
    assert checked()
