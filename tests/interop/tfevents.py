"""Does TensorBoard read what a training step writes beside its log?

    pip install tensorboard
    python tests/interop/tfevents.py cache/out/quickstart/stage1

Reads the events of a step's output folder with TensorBoard's own
EventAccumulator and compares every scalar with log.jsonl. Without a folder it
prints, as hex, the file that TensorBoard's own RecordWriter makes of the events
of the test in src/ml/tensorboard.rs.
"""

import io
import json
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter


def reference():
    out = io.BytesIO()
    writer = RecordWriter(out)
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    for scalars in [
        {"loss": 2.5, "learning_rate": 0.125, "grad_norm": 0.75},
        {"validation_loss": 2.25},
    ]:
        event = Event(wall_time=300.0, step=300)
        for tag, value in scalars.items():
            event.summary.value.add(tag=tag, simple_value=value)
        writer.write(event.SerializeToString())
    return out.getvalue()


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def compare(folder):
    wanted = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        line = json.loads(line)
        for tag in ["loss", "learning_rate", "grad_norm", "validation_loss"]:
            if tag in line:
                wanted.setdefault(tag, []).append((line["step"], f32(line[tag])))
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    assert found == wanted, "TensorBoard reads something else"
    print(f"{sum(map(len, found.values()))} scalars in {len(found)} series are the same")


if len(sys.argv) > 1:
    compare(pathlib.Path(sys.argv[1]))
else:
    print(reference().hex())
