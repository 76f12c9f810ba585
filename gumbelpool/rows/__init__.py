"""What is done to a block of rows: the only code that is written more than once."""

from gumbelpool.rows.reference import (
    Estimate,
    Table,
    add_edges_,
    merge_edges,
    multiply_rows_,
    row_gradient_,
    sample_rows,
    split_keys,
    sum_rows,
)

__all__ = [
    "Estimate",
    "Table",
    "add_edges_",
    "merge_edges",
    "multiply_rows_",
    "row_gradient_",
    "sample_rows",
    "split_keys",
    "sum_rows",
]
