"""Reproduce the CIFAR tables of *Averaging Weights Leads to Wider Optima and Better Generalization*."""
