"""Many architectures through every target: how often an export is verified, beside what a raw converter call does."""
