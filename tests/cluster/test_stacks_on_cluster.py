"""DESIGN.md 3.14 on a cluster that has all codes of a stack in one partition, and through Sentinel."""

from __future__ import annotations

import pytest
from behaviour.test_stacks import *  # noqa: F403 - pytest runs the tests that a module imports: all of them, so that a new one runs on clusters too

# What these check happens before there is a client.
for name in (
    "test_14_bad_input_names_the_field_and_sends_nothing",
    "test_14_bad_amounts_are_refused_when_a_redeemable_is_made",
    "test_14_on_a_cluster_a_stack_of_several_slots_is_refused_before_anything_is_sent",
    "test_14_without_partition_and_cluster_no_agreement_is_checked",
):
    del globals()[name]


@pytest.fixture
def partition() -> str | None:
    return "one"
