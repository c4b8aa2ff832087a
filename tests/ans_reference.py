"""Decode an `ans` payload by docs/artifact-format.md alone: plain Python, one symbol at a time, no numpy, no coder."""

import math


class Payload:
    def __init__(self, content):
        self.content, self.at = content, 0

    def byte(self):
        self.at += 1
        return self.content[self.at - 1]

    def unsigned(self):
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value += (byte % 128) << shift
            shift += 7
            if byte < 128:
                return value

    def signed(self):
        value = self.unsigned()
        return -(value + 1) // 2 if value % 2 else value // 2


def to_frequencies(weights):
    spare, total = 2**24 - len(weights), sum(weights)
    shares = [weight * spare // total for weight in weights]
    shares[shares.index(max(shares))] += spare - sum(shares)
    return [share + 1 for share in shares]


def bell_frequencies(low, size, bell, rung):
    centre, shape, tail = bell
    width = (16 + rung % 16) * 2.0 ** (rung // 16) / 128
    weights = []
    for code in range(low, low + size):
        root, power = math.sqrt(math.sqrt(abs(code - centre / 4) / width)), 1.0
        for _ in range(shape):
            power = min(power * root, 2.0**30)
        inverse = 1 + power / 2**tail
        for _ in range(tail):
            inverse = min(inverse * inverse, 2.0**60)
        weights.append(max(1, math.floor(2**29 / inverse)))
    return to_frequencies(weights)


def minifloat(byte):
    return byte if byte < 16 else (16 + byte % 16) * 2 ** (byte // 16 - 1)


def read_model(payload):
    """`(low, tables, model of the classes or None)`."""
    size, low, form = payload.unsigned() + 1, payload.signed(), payload.byte()
    if form == 0:
        return low, [to_frequencies([minifloat(payload.byte()) for _ in range(size)])], None
    bell, rung = (payload.signed(), payload.byte(), payload.byte()), payload.byte()
    if form == 1:
        return low, [bell_frequencies(low, size, bell, rung)], None
    classes = read_model(payload)
    num_classes = len(classes[1][0])
    return low, [bell_frequencies(low, size, bell, rung + 4 * number) for number in range(num_classes)], classes


class Stack:
    def __init__(self, stream):
        stream += bytes(-len(stream) % 4)
        self.words = [int.from_bytes(stream[i : i + 4], "little") for i in range(0, len(stream), 4)]
        self.state = 0
        self.refill()
        self.refill()

    def refill(self):
        if self.state < 2**32 and self.words:
            self.state = self.state * 2**32 + self.words.pop()

    def pop(self, frequencies):
        if len(frequencies) == 1:
            return 0
        slot, symbol = self.state % 2**24, 0
        while slot >= frequencies[symbol]:
            slot -= frequencies[symbol]
            symbol += 1
        self.state = self.state // 2**24 * frequencies[symbol] + slot
        self.refill()
        return symbol


def decode(content, shape):
    """Nested order ignored: a flat list of codes."""
    payload = Payload(content)
    low, tables, classes = read_model(payload)
    stack = Stack(content[payload.at :])
    if classes is None:
        codes = [low + stack.pop(tables[0]) for _ in range(math.prod(shape))]
    else:
        members = [stack.pop(classes[1][0]) for _ in range(shape[0])]
        rows = [[] for _ in members]
        for number, table in enumerate(tables):
            for row, member in zip(rows, members, strict=True):
                if member == number:
                    row.extend(low + stack.pop(table) for _ in range(math.prod(shape[1:])))
        codes = [code for row in rows for code in row]
    assert stack.state == 0, "codes are left over"
    assert not stack.words, "words are left over"
    return codes
