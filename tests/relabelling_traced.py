"""A set-up hook for worker processes that writes down how a round's labels are made."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

FILE = "COIN_RAY_TESTS_CARDS"
"""Names the file with a line (process, thread, what began) for each step."""


def hook() -> None:
    """Instances that a thread draws wait until the second prediction has begun."""
    from coin_ray.distillation import inference, network

    second, predicted = threading.Event(), list[int]()
    build, predict = network.student_from_weights, inference.predict_batch
    draw = inference.instances_from_probability

    def say(what: str) -> bool:
        pooled = threading.current_thread().name.startswith("ThreadPool")
        with Path(os.environ[FILE]).open("a") as file:
            file.write(f"{os.getpid()} {'pool' if pooled else 'main'} {what}\n")
        return pooled

    def building(*arguments: Any) -> Any:
        say("build")
        return build(*arguments)

    def predicting(*arguments: Any) -> Any:
        say("predict")
        predicted.append(1)
        if len(predicted) == 2:
            second.set()
        return predict(*arguments)

    def drawing(*arguments: Any, **named: Any) -> Any:
        if say("draw") and not second.wait(60):
            raise RuntimeError("the device waited for the CPU")
        return draw(*arguments, **named)

    network.student_from_weights = building
    inference.predict_batch = predicting
    inference.instances_from_probability = drawing
