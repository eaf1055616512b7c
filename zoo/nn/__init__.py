"""Blocks that several plugins share, under the field's names for them."""
