"""A predictor for `nutshell score --command "python examples/adaptive.py"`: counts of tokens, one more than was seen.

It shows the whole protocol of docs/predictor-protocol.md, needs numpy alone, and learns from document to document.
"""

import struct
import sys

import numpy as np

VOCAB_SIZE, BOS = int(sys.argv[1]), int(sys.argv[2])
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write


def send(kind: bytes, content: bytes) -> None:
    """Write a message: length, kind, content."""
    write(struct.pack("<I", 1 + len(content)) + kind + content)
    sys.stdout.buffer.flush()


counts = np.ones(VOCAB_SIZE)
send(b"H", struct.pack("<8sHIIB", b"NUTSHELL", 1, VOCAB_SIZE, BOS, 0))  # 0: what came in one document, helps the next
while head := read(4):
    content = read(struct.unpack("<I", head)[0])
    kind = content[:1]
    if kind == b"P":  # what comes next?
        send(b"L", np.log(counts / counts.sum()).astype("<f4").tobytes())
    elif kind == b"T":  # this came
        counts[struct.unpack("<I", content[1:])[0]] += 1
    # b"B" begins a document; this model does not care
