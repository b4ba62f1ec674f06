"""One peer, kept alive: does its work for each line on standard input.

    python server.py SPEC.json PEER

Says {"ready": true, "version": ...} once it is warm, or {"unavailable": reason}. Then the line "turn SECONDS" is answered with the
median of the seconds that repetitions took in so much time, after as much time that warms up; "save PATH" with "saved" once the
result of one repetition is in that file. Ends with its input.
"""

import json
import os
import statistics
import sys
import time

# What libraries print must not be taken for answers.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(value) -> None:
    print(json.dumps(value), file=ANSWERS, flush=True)


def peer(name: str):
    """The function that makes a peer's work of a specification: (work, version)."""
    import attention
    import layers

    return {
        "pytorch": attention.pytorch,
        "pytorch_values_apart": attention.pytorch_values_apart,
        "pytorch_sdpa": attention.pytorch_sdpa,
        "vllm": attention.vllm,
        "transformers": layers.transformers,
    }[name]


def repeat(work, seconds: float) -> list[float]:
    """The seconds of each repetition, of which there is at least one."""
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def serve(work, version: str, warm_seconds: float) -> None:
    from safetensors.torch import save_file

    repeat(work, warm_seconds)
    answer({"ready": True, "version": version})
    for line in sys.stdin:
        command, _, value = line.strip().partition(" ")
        if command == "turn":
            repeat(work, float(value))
            answer(statistics.median(repeat(work, float(value))))
        elif command == "save":
            save_file({"out": work().float().contiguous()}, value)
            answer("saved")


def main() -> None:
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    try:
        import torch

        torch.set_num_threads(spec["threads"])
        torch.set_grad_enabled(False)
        work, version = peer(sys.argv[2])(spec)
        work()
    except Exception as error:  # Whatever it is: it is told, and the others are timed.
        answer({"unavailable": f"{type(error).__name__}: {error}"})
        return
    serve(work, version, spec["warm_seconds"])


if __name__ == "__main__":
    main()
