"""Changes of the real source, each of which breaks a promise, and the tests that must notice.

``./run test-mutations`` applies them one by one to a copy of the tree; docs/promises.md says what
holds which promise.
"""
