"""What a CI image holds so that jobs need no network: git trees, packages that are downloaded but not installed, files."""
