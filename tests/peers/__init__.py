"""Other exporters beside ours: the same model, the same machine, one run; `make bench-peers` writes docs/peers.md."""
