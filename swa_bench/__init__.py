"""Reproduces the CIFAR tables of *Averaging Weights Leads to Wider Optima* (SWA, 2018)."""
