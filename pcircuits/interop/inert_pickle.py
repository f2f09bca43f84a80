"""A reader of pickles that runs nothing.

A pickle is a program for a stack machine, and unpickling lets it import and call anything. This machine knows the
instructions that build plain values. Where a pickle names a function or class, it keeps the name, if that name is
expected; where it calls one, it keeps a record of the call. What to make of a record is up to the caller.
"""

import pickletools
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from pcircuits.errors import FormatError

_PROTOCOLS = (4, 5)  # what Python 3.8 and later write unless told otherwise
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


class Global(NamedTuple):
    """The name of a function or class; nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Call:
    """`function(*args)`, never called, and the state that was to be set on the result."""

    function: Global
    args: tuple
    state: Any = None


def read_pickle(content: bytes | bytearray | memoryview, expected: Collection[Global]) -> Any:
    """The value that a pickle of protocol 4 or 5 describes.

    Made of None, bool, int, float, str, list, tuple, dict with keys that are str, `Call`, `Global`, and memoryview for
    bytes: parts of `content`, which are not copied. Memory and time are linear in the size of `content`.

    Raises:
        FormatError: an unexpected name, an instruction that plain values do not need, or a program that is truncated,
            malformed or followed by more bytes.
    """
    return _Machine(memoryview(content), expected).run()


class _Machine:
    def __init__(self, content: memoryview, expected: Collection[Global]) -> None:
        self.content, self.position, self.expected = content, 0, expected
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: list[Any] = []

    def run(self) -> Any:
        if (first := self.instruction()) != "PROTO" or (protocol := self.integer(1)) not in _PROTOCOLS:
            found = first if first != "PROTO" else f"protocol {protocol}"
            raise FormatError(f"it starts with {found}, expected a pickle of protocol 4 or 5")
        while (name := self.instruction()) != "STOP":
            if name not in _STEPS:
                raise FormatError(
                    f"instruction {name} before byte {self.position} is refused: data needs no such thing"
                )
            _STEPS[name](self)
        if len(self.stack) != 1 or self.below or self.position != len(self.content):
            raise self.malformed(f"no one value, or not {len(self.content)} bytes,")
        return self.stack[0]

    def instruction(self) -> str:
        code = self.take(1)[0]
        return _NAMES.get(code, f"number {code}")

    def take(self, size: int) -> memoryview:
        if size > len(self.content) - self.position:
            missing = f"{size} bytes are to follow byte {self.position}, but there are {len(self.content)} in all"
            raise FormatError(f"it is truncated or malformed: {missing}")
        self.position += size
        return self.content[self.position - size : self.position]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int) -> str:
        try:
            return str(self.take(self.integer(size)), "utf-8")
        except UnicodeDecodeError as error:
            raise self.malformed("a text that is no UTF-8") from error

    def pop(self) -> Any:
        if not self.stack:
            raise self.malformed("a value that is missing")
        return self.stack.pop()

    def pop_type(self, kind: type) -> Any:
        if not isinstance(value := self.pop(), kind):
            raise self.malformed(f"a {type(value).__name__} in place of a {kind.__name__}")
        return value

    def top(self, kind: type) -> Any:
        value = self.pop_type(kind)
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        if not self.below:
            raise self.malformed("a mark that is missing")
        values, self.stack = self.stack, self.below.pop()
        return values

    def malformed(self, what: str) -> FormatError:
        return FormatError(f"it is malformed: it has {what} before byte {self.position}")

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def tuple_of(self, size: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(size)])))

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def update(self, items: list[Any]) -> None:
        keys = items[::2]
        if len(items) % 2 or not all(type(key) is str for key in keys):
            raise self.malformed("a dict whose keys are not all str")
        self.top(dict).update(zip(keys, items[1::2], strict=True))

    def name_global(self) -> None:
        name, module = self.pop_type(str), self.pop_type(str)
        if (found := Global(module, name)) not in self.expected:
            known = ", ".join(sorted(map(str, self.expected)))
            raise FormatError(f"it names {str(found)!r:.120}, which is refused and was not run; known are {known}")
        self.stack.append(found)

    def call(self) -> None:
        args, function = self.pop_type(tuple), self.pop_type(Global)
        self.stack.append(Call(function, args))

    def build(self) -> None:
        state, built = self.pop(), self.top(Call)
        if built.state is not None:
            raise self.malformed("an object whose state is set twice")
        built.state = state

    def get(self, size: int) -> None:
        if (index := self.integer(size)) >= len(self.memo):
            raise self.malformed(f"a reference to value {index} of {len(self.memo)}")
        self.stack.append(self.memo[index])

    def memoize(self) -> None:
        self.memo.append(self.top(object))


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        value = make(machine)  # may replace the stack
        machine.stack.append(value)

    return step


def _counted(size: int) -> Callable[[_Machine], None]:
    return _push(lambda machine: machine.take(machine.integer(size)))


_STEPS: dict[str, Callable[[_Machine], Any]] = {
    "FRAME": lambda m: m.take(8),
    "MARK": _Machine.mark,
    "NONE": _push(lambda m: None),
    "NEWTRUE": _push(lambda m: True),
    "NEWFALSE": _push(lambda m: False),
    "BININT": _push(lambda m: struct.unpack("<i", m.take(4))[0]),
    "BININT1": _push(lambda m: m.integer(1)),
    "BININT2": _push(lambda m: m.integer(2)),
    "LONG1": _push(lambda m: int.from_bytes(m.take(m.integer(1)), "little", signed=True)),
    "BINFLOAT": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    "SHORT_BINUNICODE": _push(lambda m: m.text(1)),
    "BINUNICODE": _push(lambda m: m.text(4)),
    "BINUNICODE8": _push(lambda m: m.text(8)),
    "SHORT_BINBYTES": _counted(1),
    "BINBYTES": _counted(4),
    "BINBYTES8": _counted(8),
    "BYTEARRAY8": _counted(8),
    "EMPTY_TUPLE": _push(lambda m: ()),
    "TUPLE1": lambda m: m.tuple_of(1),
    "TUPLE2": lambda m: m.tuple_of(2),
    "TUPLE3": lambda m: m.tuple_of(3),
    "TUPLE": _push(lambda m: tuple(m.pop_to_mark())),
    "EMPTY_LIST": _push(lambda m: []),
    "APPEND": lambda m: m.extend([m.pop()]),
    "APPENDS": lambda m: m.extend(m.pop_to_mark()),
    "EMPTY_DICT": _push(lambda m: {}),
    "SETITEM": lambda m: m.update([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m: m.update(m.pop_to_mark()),
    "MEMOIZE": _Machine.memoize,
    "BINGET": lambda m: m.get(1),
    "LONG_BINGET": lambda m: m.get(4),
    "STACK_GLOBAL": _Machine.name_global,
    "NEWOBJ": _Machine.call,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
