"""The published figures and their sources, installed as a package's data."""
