"""What runs inside the machine: not collected by a test run on the host."""
