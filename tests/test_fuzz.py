"""Some hundreds of random calls; ``make fuzz`` for as many as ``FUZZ_CALLS`` says."""

import os

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings

CALLS = int(os.environ.get("FUZZ_CALLS", "300"))
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    pytest.mark.filterwarnings("ignore::gumbelpool.CollapseWarning"),
]


def share(part):
    """Settings for a share of the calls: random ones in a long run, the same in a short one."""
    return settings(
        max_examples=max(1, int(CALLS * part)),
        derandomize=CALLS <= 1000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@share(0.4)
@given(fuzz.calls())
def test_valid_calls_agree_with_the_oracle(call):
    fuzz.check_call(call)


@share(0.1)
@given(fuzz.facts())
def test_valid_calls_of_the_functions_agree_with_the_dense_form(facts):
    fuzz.check_functions(facts)


@share(0.25)
@given(fuzz.wrong_calls())
def test_one_wrong_argument_is_named(wrong):
    fuzz.check_wrong_call(*wrong)


@share(0.05)
@given(fuzz.wrong_options())
def test_one_wrong_option_is_named(wrong):
    fuzz.check_wrong_option(*wrong)


@share(0.2)
@given(fuzz.wrong_function_calls())
def test_one_wrong_argument_of_a_function_is_named(wrong):
    fuzz.check_wrong_function_call(*wrong)
