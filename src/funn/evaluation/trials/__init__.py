"""One attack on one classifier, shared among processes, in records on disk."""
