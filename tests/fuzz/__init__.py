"""Fuzzing of everything that parses bytes: targets, two engines over them, and a kept corpus.

A target (:mod:`tests.fuzz.targets`) is a function ``bytes -> None`` that lets only documented
exceptions out; every other exception is a finding. hypothesis and atheris both call the same
functions, and every file of ``corpus/TARGET/`` is put through its target in CI.
"""
