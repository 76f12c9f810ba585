"""Train and test a graph classifier with a pooling layer of your choice: see ``--help``."""
