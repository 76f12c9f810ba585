"""One graph larger than one machine, sharded over the processes of ``torch.distributed``."""

from gumbelpool.distributed.graph import ShardedGraph
from gumbelpool.distributed.pool import pool_sharded

__all__ = ["ShardedGraph", "pool_sharded"]
