"""Decode an `ans` payload by docs/artifact-format.md alone: plain Python, one symbol at a time, no numpy, no coder."""

import itertools
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
    """`(low, tables, models of the classes of rows and of columns, or None)`."""
    size, low, form = payload.unsigned() + 1, payload.signed(), payload.byte()
    if form == 0:
        return low, [to_frequencies([minifloat(payload.byte()) for _ in range(size)])], None
    bell, rung = (payload.signed(), payload.byte(), payload.byte()), payload.byte()
    if form == 1:
        return low, [bell_frequencies(low, size, bell, rung)], None
    rows, columns = read_model(payload), read_model(payload)
    sums = len(rows[1][0]) + len(columns[1][0]) - 1
    return low, [bell_frequencies(low, size, bell, rung + 4 * number) for number in range(sums)], (rows, columns)


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


def groups(stack, classes, num_rows, num_columns):
    """(sum of classes, its places as (row, column)) in the order of the stream."""
    if classes is None:
        return [(0, [(row, column) for row in range(num_rows) for column in range(num_columns)])]
    row_classes, column_classes = (
        [stack.pop(model[1][0]) for _ in range(count)]
        for model, count in zip(classes, (num_rows, num_columns), strict=True)
    )
    places = [(row, column) for row in range(num_rows) for column in range(num_columns)]

    def sum_at(place):
        return row_classes[place[0]] + column_classes[place[1]]

    places.sort(key=lambda place: (sum_at(place), row_classes[place[0]], *place))
    return [(number, list(group)) for number, group in itertools.groupby(places, key=sum_at)]


def decode(content, shape):
    """Nested order ignored: a flat list of codes."""
    payload = Payload(content)
    low, tables, classes = read_model(payload)
    stack = Stack(content[payload.at :])
    num_columns = math.prod(shape[1:])
    num_rows = math.prod(shape) // num_columns if num_columns else 0
    codes = [None] * math.prod(shape)
    for number, places in groups(stack, classes, num_rows, num_columns):
        for row, column in places:
            codes[row * num_columns + column] = low + stack.pop(tables[number])
    assert stack.state == 0, "codes are left over"
    assert not stack.words, "words are left over"
    return codes


def subset_of(path, row, column, of_z1, of_z0):
    """Two sums of path bits above, modulo 2, as docs/artifact-format.md says."""
    bits = [path[row - age][column] if row >= age else 0 for age in range(16)]
    z1, z0 = (sum(bit for age, bit in enumerate(bits) if polynomial >> age & 1) % 2 for polynomial in (of_z1, of_z0))
    return 2 * z1 + z0


def octet_frequencies(q):
    """Of eight path bits under one share of ones, the first in the highest bit."""
    weights = []
    for octet in range(256):
        weight = 2**30
        for place in range(8):
            weight = weight * (q**2 if octet >> 7 - place & 1 else 2**16 - q**2) // 2**16
        weights.append(weight)
    return to_frequencies(weights)


def path_of(stack, members, shares, coins, num_rows, num_columns):
    """Path bits, as rows: coins in the order of the groups, the rest from the stack under their share of ones."""
    path, coins = [[0] * num_columns for _ in range(num_rows)], list(coins)
    for number, places in members:
        bits = coins
        if shares[number]:
            table = octet_frequencies(shares[number])
            octets = [stack.pop(table) for _ in range(math.ceil(len(places) / 8))]
            bits = [octet >> 7 - place & 1 for octet in octets for place in range(8)]
        for row, column in places:
            path[row][column] = bits.pop(0)
        assert bits is coins or not any(bits), "path bits are left over"
    assert not any(coins), "coins are left over"
    return path


def decode_trellis(content, shape, of_z1, of_z0):
    """Decode a `trellis` payload to a flat list of levels."""
    payload, (num_rows, num_columns) = Payload(content), shape
    low, tables, classes = read_model(payload)
    shares = [payload.byte() for _ in tables]
    coins = [
        byte >> 7 - place & 1 for byte in [payload.byte() for _ in range(payload.unsigned())] for place in range(8)
    ]
    stack = Stack(content[payload.at :])
    members = groups(stack, classes, num_rows, num_columns)
    path = path_of(stack, members, shares, coins, num_rows, num_columns)
    levels = [None] * (num_rows * num_columns)
    for number, places in members:
        for subset in range(4):
            first = (subset - low) % 4
            table = to_frequencies(tables[number][first::4]) if first < len(tables[number]) else None
            for row, column in places:
                if subset_of(path, row, column, of_z1, of_z0) == subset:
                    levels[row * num_columns + column] = low + first + 4 * stack.pop(table)
    assert stack.state == 0, "levels are left over"
    assert not stack.words, "words are left over"
    return levels
