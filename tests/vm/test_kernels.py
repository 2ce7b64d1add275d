"""One other kernel, in a campaign; ``./run test-vm`` tries all of them and more on each."""

from __future__ import annotations

import pytest

from tests.vm import campaign, images


@pytest.mark.campaign
@pytest.mark.root
@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_replication_on_another_kernel() -> None:
    results = list(
        campaign.run_kernel(images.KERNELS[campaign.BRIEF_KERNEL], campaign.BRIEF_CHECKS, print)
    )
    print(campaign.table(results))
    failed = [result for result in results if not result.passed]
    assert not failed, failed[0].said
    assert [result.check for result in results] == [
        "build",
        "boot",
        *(check.name for check in campaign.BRIEF_CHECKS),
    ]
