"""Hydra's configuration tree, installed as a package so that it is found from any directory."""
