"""Corpora: who is in a collection of music, under which label, and in which split."""
