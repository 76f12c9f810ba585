"""The processes of a run: how they start, what one of them does for all, that they end together.

torchrun starts them, or Fabric where `--devices` asks for more than one. Nothing here depends on
the backend, which is Fabric's choice: NCCL between GPUs, gloo between CPUs.
"""

import argparse
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy

from ..shared.errors import InputError

# The most that one process waits for another in a step. One that has ended is noticed at once, by
# whoever started it or by its closed connections; this is for one that is lost without a trace.
TIMEOUT = timedelta(minutes=5)


def make_fabric(args: argparse.Namespace) -> Fabric:
    """A launched Fabric; with several devices, this script then runs once per device."""
    devices, nodes = args.devices or 1, 1
    if TorchElasticEnvironment.detect():
        devices, nodes = (int(os.environ[f"{of}_WORLD_SIZE"]) for of in ("LOCAL", "GROUP"))
        if args.devices not in (None, devices):
            raise InputError(f"leave out --devices {args.devices}: torchrun started {devices}")
    elif "LOCAL_RANK" in os.environ and os.environ["LOCAL_RANK"] != "0":
        threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    strategy = "auto"
    if devices * nodes > 1:
        strategy = DDPStrategy(timeout=TIMEOUT)
    try:
        fabric = Fabric(
            accelerator=args.accelerator,
            strategy=strategy,
            devices=devices,
            num_nodes=nodes,
            precision=args.precision,
        )
        fabric.launch()
    except Exception as error:  # Fabric names the flag's value, and what it would have accepted
        raise InputError(" ".join(str(error).split())) from error
    return fabric


def in_main_process(fabric: Fabric, action: Callable[[], object]) -> None:
    """Act in one process while the others wait; if it cannot be done, all of them stop."""
    problem = None
    if fabric.is_global_zero:
        try:
            action()
        except InputError as error:
            problem = error
    if fabric.broadcast(problem is not None):
        # The main process says what happened; its launcher kills it if another one fails.
        raise problem or SystemExit(0)


def _end_with(parent: int) -> None:
    """End as soon as the parent has: Fabric watches the children it starts, none watches it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
