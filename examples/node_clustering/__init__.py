"""Cluster the nodes of one graph, by learning and by other means: see ``--help``."""
