"""The rules of jobs, pure: what may be asked when, what follows from it, what is due next.

Read in this order: ``spec`` (what the administrator wants), ``states`` (the table of what he
may ask for and what the job becomes), ``reports`` (what the source's word changes),
``schedule`` (when the next sync is due and when a job expires). Nothing here reads a clock,
a database or a socket; ``now`` is passed in as Unix seconds.
"""

from __future__ import annotations
