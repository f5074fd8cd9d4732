"""The outside world as imgc sees it: the host's package mirrors."""
