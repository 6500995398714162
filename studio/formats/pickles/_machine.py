"""The machine that a pickle is a program for, without any of its effects.

A pickle can name a function or a class, call it, and put values into what it gave; nothing else. This machine keeps
Python's own stack and memo, reads opcodes and frames as Lib/pickle.py does (PEP 307, PEP 574), and puts stand-ins where
Python would import or call. Every opcode costs a constant, or what it reads from the file: nothing is hashed but short
texts, no number is computed, and long content is passed over.

joblib writes the bytes of a numpy array right behind the opcodes that describe it; `arrays=True` steps over them.
"""

from __future__ import annotations

import _compat_pickle
from collections.abc import Callable
from typing import Any, BinaryIO

from studio.formats.pickles._arrays import ArrayShape, array_of, item_of
from studio.formats.pickles._frames import PIECE
from studio.formats.pickles._stack import Limits, Stack
from studio.formats.pickles._values import (
    FOREIGN_OBJECT,
    LIST,
    RECONSTRUCTOR,
    SET,
    Blank,
    Broken,
    Made,
    Name,
    OldJoblib,
    Table,
)

_ENCODE = Name("_codecs", "encode")
_DTYPE = Name("numpy", "dtype")
_OBJECT = Name("builtins", "object")
# They call what they are given. Pickles of Python, numpy and pandas give them classes, by name.
_CALLERS = frozenset(
    {
        RECONSTRUCTOR,
        Name("numpy.random._pickle", "__bit_generator_ctor"),
        Name("numpy.random._pickle", "__generator_ctor"),
        Name("numpy.random._pickle", "__randomstate_ctor"),
        Name("pandas.core.indexes.base", "_new_Index"),
    }
)
# Calls kept for later, of functions that compute.
_PARTIAL = Name("functools", "partial")
_KEPT_CALLS = frozenset(
    {
        Name("sklearn.utils.validation", "check_array"),
        Name("sklearn.feature_selection._mutual_info", "mutual_info_classif"),
        Name("sklearn.feature_selection._mutual_info", "mutual_info_regression"),
        Name("sklearn.feature_selection._univariate_selection", "f_regression"),
    }
)
_CALLER_ENDINGS = ("newObj", "__pyx_unpickle_")
_WRAPPERS = frozenset({"NumpyArrayWrapper", "NDArrayWrapper", "ZNDArrayWrapper"})
_APPENDABLE = frozenset({Name("collections", "deque")})


class Machine(Stack):
    """One run over one pickle.

    `names` in the order of their first look-up; `called`: those that are called, or handed to what calls them, `given`
    those that are called with arguments; `oddities`: what no pickler writes, but a pickle that hides something might
    (calls of what a call gave, methods replaced by state). `file` stands behind the pickle afterwards.
    """

    def __init__(
        self,
        file: BinaryIO,
        limits: Limits | None = None,
        arrays: bool = False,
        outer: Machine | None = None,
        cut: bool = False,
    ) -> None:
        super().__init__(file, limits or Limits(), cut)
        self._arrays, self._outer = arrays, outer
        self.names: dict[Name, None] = {} if outer is None else outer.names
        self.called: set[Name] = set() if outer is None else outer.called
        self.given: set[Name] = set() if outer is None else outer.given
        if outer is not None:
            self.oddities = outer.oddities
        self.proto = 0
        self.count = 0

    def run(self) -> Any:
        """The value that the pickle gives. Raises Broken, OldJoblib."""
        table, read, most = _OPERATIONS, self._in.read, self.limits.opcodes
        while True:
            operation = table.get(read(1))
            if operation is _STOP:
                return self._pop()
            if operation is None:
                raise Broken("it holds bytes that are no instruction of a pickle")
            operation(self)
            self.count += 1
            if not self.count & 0xFFF:
                if self.count > most:
                    raise Broken(f"it has more than {most} instructions")
                if self.height > self.limits.values:
                    raise Broken("it heaps up values without using them")

    # What names, makes and fills objects.

    def _look_up(self, module: str, qualname: str) -> Name:
        # For the pickle of an object array, joblib asks the outer one's protocol, and older versions its own.
        for proto in (self.proto, self._outer.proto if self._outer else self.proto):
            found = Name(module, qualname)
            if proto < 3:  # names of Python 2
                if (module, qualname) in _compat_pickle.NAME_MAPPING:
                    found = Name(*_compat_pickle.NAME_MAPPING[module, qualname])
                elif module in _compat_pickle.IMPORT_MAPPING:
                    found = Name(_compat_pickle.IMPORT_MAPPING[module], qualname)
            self.names.setdefault(found)
        return found

    def _make(self, maker: Any, args: Any) -> Made:
        if not isinstance(args, tuple):
            raise Broken("it calls something with arguments that are no tuple")
        if isinstance(maker, Made):
            self._odd(f"calls what {maker} gives")
        elif not isinstance(maker, Name):
            raise Broken("it calls something that is no function")
        else:
            self.called.add(maker)
            if args:
                self.given.add(maker)
            if maker == _ENCODE and args[1:] != ("latin1",):
                self._odd(f"calls {_ENCODE} with another encoding than latin1")
            if maker == _PARTIAL and not (args and args[0] in _KEPT_CALLS):
                self._odd("keeps a call of some function for later")
            if maker.module in ("builtins", "collections") and any(_is_object(arg) for arg in args):
                self._odd(f"hands an object to {maker}, which asks for its methods")
            if maker in _CALLERS or maker.qualname.startswith(_CALLER_ENDINGS):
                self._handed_on(maker, args)
        return Made(maker, args)

    def _handed_on(self, maker: Name, args: tuple[Any, ...]) -> None:
        empty = maker == RECONSTRUCTOR and len(args) == 3 and args[1:] == (_OBJECT, None)
        for arg in args:
            if isinstance(arg, Name):
                self.called.add(arg)
                if not empty:
                    self.given.add(arg)
            elif isinstance(arg, Made) and not (arg.maker in _CALLERS and arg.maker != RECONSTRUCTOR):
                self._odd(f"hands an object to {maker}, which calls classes")

    def global_(self) -> None:
        self._push(self._look_up(self._in.name("a module's name"), self._in.name("a name")))

    def stack_global(self) -> None:
        qualname, module = self._pop(), self._pop()
        if type(module) is not str or type(qualname) is not str:
            raise Broken("it looks up a name that is no short text")
        self._push(self._look_up(module, qualname))

    def extension(self, size: int) -> None:
        code = self._in.number(size, signed=size == 4)
        name = Name("copyreg", f"extension {code}")
        self.names.setdefault(name)
        self._push(name)

    def inst(self) -> None:
        name = self._look_up(self._in.name("a module's name"), self._in.name("a name"))
        self._push(self._make(name, tuple(self._since_mark())))

    def obj(self) -> None:
        items = self._since_mark()
        if not items:
            raise Broken("it makes an object of no class")
        self._push(self._make(items[0], tuple(items[1:])))

    def reduce(self) -> None:
        args, maker = self._pop(), self._pop()
        self._push(self._make(maker, args))

    def new_object_with_names(self) -> None:
        names, args, kind = self._pop(), self._pop(), self._pop()
        self._push(self._make(kind, (*args, names) if isinstance(args, tuple) else args))

    def kept_elsewhere(self) -> None:
        pid = self._pop()
        # torch.save before 1.6 wrote a class as ('module', class, file, source). Source: torch/serialization.py.
        a_class = isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], Name)
        self._push(pid[1] if a_class else FOREIGN_OBJECT)

    def build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Name):
            self._odd(f"changes {target} itself")
        for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
            if isinstance(part, Table):
                if part.odd:
                    self._odd("sets attributes whose names are objects")
                for key in part.methods:
                    self._odd(f"replaces {key} of an object")
        if isinstance(state, Made):
            self._odd(f"fills an object from what {state} gives")
        if not isinstance(target, Made):
            return
        target.states += 1
        target.state = state
        if target.maker == _PARTIAL and not (isinstance(state, tuple) and state and state[0] in _KEPT_CALLS):
            self._odd("keeps a call of some function for later")
        if target.maker == _DTYPE and item_of(target) is None:
            self._odd("describes a numpy data type as numpy does not")
        kind = target.kind
        if self._arrays and kind is not None and kind.qualname in _WRAPPERS:
            self._stack[-1] = self._array_behind(target, kind)

    def _array_behind(self, wrapper: Made, kind: Name) -> Blank:
        """Step over what joblib wrote behind a wrapper. Source: joblib/numpy_pickle.py, NumpyArrayWrapper.read."""
        if kind.qualname != "NumpyArrayWrapper":
            raise OldJoblib
        plain = wrapper.maker == RECONSTRUCTOR or not wrapper.args
        described = array_of(wrapper.state) if plain and wrapper.states == 1 else None
        if described is None:
            raise Broken("an array in it is described as joblib does not")
        self._step_over(described)
        return Blank("a numpy array")

    def _step_over(self, described: ArrayShape) -> None:
        if described.objects:
            Machine(self._in.file, self.limits, outer=self).run()
            return
        if described.padded:
            self._in.raw(self._in.raw(1)[0])
        left = described.size
        while left:
            left -= len(self._in.raw(min(left, PIECE)))

    def into(self, many: bool) -> None:
        _ = self._since_mark() if many else self._pop()
        target = self._top()
        if isinstance(target, Made) and target.maker not in _APPENDABLE:
            self._odd(f"appends to what {target} gives")

    # The stream itself.

    def protocol(self) -> None:
        self.proto = self._in.read(1)[0]
        if self.proto > 5:
            raise Broken(f"it is of pickle protocol {self.proto}, which Python does not have yet")

    def out_of_band(self) -> None:
        raise Broken("a part of its data was kept outside of it")


def _is_object(arg: Any) -> bool:
    return isinstance(arg, Made) and arg.maker != _ENCODE


def _stop(_machine: Machine) -> None:
    return None


_STOP = _stop
Operation = Callable[[Machine], Any]
# One byte each, as pickletools names them.
_OPERATIONS: dict[bytes, Operation] = {
    b".": _STOP,
    b"\x80": Machine.protocol,
    b"\x95": lambda m: m._in.begin(),
    b"(": Machine.mark,
    b"0": Machine.discard,
    b"1": Machine._since_mark,
    b"2": lambda m: m._push(m._top()),
    b"c": Machine.global_,
    b"\x93": Machine.stack_global,
    b"\x82": lambda m: m.extension(1),
    b"\x83": lambda m: m.extension(2),
    b"\x84": lambda m: m.extension(4),
    b"i": Machine.inst,
    b"o": Machine.obj,
    b"R": Machine.reduce,
    b"\x81": Machine.reduce,
    b"\x92": Machine.new_object_with_names,
    b"b": Machine.build,
    b"P": lambda m: m._in_place_of(m._in.line(), FOREIGN_OBJECT),
    b"Q": Machine.kept_elsewhere,
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"I": Machine.integer_line,
    b"L": Machine.integer_line,
    b"J": lambda m: m.small(4, signed=True),
    b"K": lambda m: m.small(1),
    b"M": lambda m: m.small(2),
    b"\x8a": lambda m: m.long(1),
    b"\x8b": lambda m: m.long(4),
    b"F": Machine.float_line,
    b"G": Machine.float_,
    b"S": Machine.quoted_line,
    b"T": lambda m: m.old_text(4),
    b"U": lambda m: m.old_text(1),
    b"V": Machine.text_line,
    b"X": lambda m: m.text(4),
    b"\x8c": lambda m: m.text(1),
    b"\x8d": lambda m: m.text(8),
    b"B": lambda m: m.passed_over(4),
    b"C": lambda m: m.passed_over(1),
    b"\x8e": lambda m: m.passed_over(8),
    b"\x96": lambda m: m.passed_over(8),
    b"\x97": Machine.out_of_band,
    b"\x98": Machine.out_of_band,
    b")": lambda m: m._push(()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": lambda m: m._push(tuple(m._since_mark())),
    b"]": lambda m: m._push(LIST),
    b"l": lambda m: m._in_place_of(m._since_mark(), LIST),
    b"}": lambda m: m._push(Table()),
    b"d": Machine.table,
    b"\x8f": lambda m: m._push(SET),
    b"\x91": lambda m: m._in_place_of(m._since_mark(), SET),
    b"a": lambda m: m.into(many=False),
    b"e": lambda m: m.into(many=True),
    b"\x90": lambda m: m.into(many=True),
    b"s": Machine.set_item,
    b"u": Machine.set_items,
    b"p": lambda m: m.remember(m.index_line()),
    b"q": lambda m: m.remember(m._in.number(1)),
    b"r": lambda m: m.remember(m._in.number(4)),
    b"\x94": lambda m: m.remember(len(m._memo)),
    b"g": lambda m: m.recall(m.index_line()),
    b"h": lambda m: m.recall(m._in.number(1)),
    b"j": lambda m: m.recall(m._in.number(4)),
}
