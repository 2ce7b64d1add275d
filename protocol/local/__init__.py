"""What a daemon needs from its machine: configuration, log, systemd, lock, metrics."""
