"""One other kernel in every test run; ``./run test-vm`` tries all of them and more on each."""

from __future__ import annotations

import pytest

from tests.vm import campaign, images
from tests.vm.mirror import NoMirror


@pytest.mark.root
@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_replication_on_another_kernel() -> None:
    which = images.KERNELS[campaign.BRIEF_KERNEL]
    try:
        results = list(campaign.run_kernel(which, campaign.BRIEF_CHECKS, print, cpus=1))
    except NoMirror as error:
        pytest.skip(str(error))
    print(campaign.table(results))
    failed = [result for result in results if not result.passed]
    assert not failed, failed[0].said
    assert [result.check for result in results] == [
        "build",
        "boot",
        *(check.name for check in campaign.BRIEF_CHECKS),
    ]
