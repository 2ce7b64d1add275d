"""What two processes of this project agree on: wire format, links, local control, errors.

Nothing here imports ``replicad`` or ``receiver``; a test holds this.
"""
