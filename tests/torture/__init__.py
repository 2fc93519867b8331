"""Promotions while everything that works on them is killed, again and again: `make torture`."""
