"""The targets, by what they parse. Importing this package declares them all."""

from __future__ import annotations

from tests.fuzz.targets import admin, certificates, control, data, files, machine, words

MODULES = (data, control, certificates, admin, words, files, machine)
