"""Random walks through a state machine: its rules in any order, without looking for small examples.

Hypothesis takes many times as long for each example and prefers few kinds of rules in each; where
only finding counts (mutants, mutations, long nights) a walk finds more. A seed names a walk.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

Arguments = Mapping[str, Sequence[object]]


def walk(
    machine: RuleBasedStateMachine,
    chance: random.Random,
    steps: int,
    arguments: Arguments,
    rare: Collection[str] = (),
) -> None:
    """One walk, every invariant checked after each step. AssertionError: a promise is broken.

    ``rare``: rules that are taken a quarter as often, so that something is there to be broken.
    """
    rules = [
        each for each in machine.rules for _ in range(1 if each.function.__name__ in rare else 4)
    ]

    def call(rule: Any) -> None:
        given = {name: chance.choice(arguments[name]) for name in rule.arguments_strategies}
        rule.function(machine, **given)
        for each in machine.invariants:
            each.function(machine)

    try:
        for rule in list(machine._initialize_rules_to_run):
            call(rule)
        for _ in range(steps):
            rule = chance.choice(rules)
            if all(condition(machine) for condition in rule.preconditions):
                call(rule)
    finally:
        machine.teardown()
