"""Guarantee: what a checkpoint is bound to do on new data, and under which assumptions."""
