"""What a CI image holds so that jobs need no network: git trees, files, and packages that are not installed."""
