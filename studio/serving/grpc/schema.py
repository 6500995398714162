"""Protobuf messages from a short notation, in a descriptor pool of their own.

The pool is private because a process may hold each message name once: `tritonclient` and `kserve` both bring
`inference.*`, and whoever imports one of them beside Studio must not be told that it is there already.

The notation: a message's name, then its fields, one a line: `number type name`, the type with `*` when repeated, as
`<key,value>` for a map, and `name?choice` for a member of a oneof. Names with a dot are nested.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "int32": _Field.TYPE_INT32,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "uint32": _Field.TYPE_UINT32,
}


class Messages:
    """The message classes of one package: `Messages(...)["ModelInferRequest"]`."""

    def __init__(self, package: str, notation: str, enums: dict[str, tuple[str, ...]] | None = None) -> None:
        file = descriptor_pb2.FileDescriptorProto(name=f"studio/{package}.proto", package=package, syntax="proto3")
        self._package = package
        self._enums = set(enums or {})
        for name, values in (enums or {}).items():
            enum = file.enum_type.add(name=name)
            for number, value in enumerate(values):
                enum.value.add(name=value, number=number)
        message: Any = None
        for line in notation.strip().splitlines():
            words = line.split()
            if len(words) == 1:
                message = self._message(file, words[0])
            elif words:
                self._field(message, int(words[0]), words[1], words[2])
        self._pool = descriptor_pool.DescriptorPool()
        self._pool.Add(file)
        self._get = cache(self._find)

    def __getitem__(self, name: str) -> Any:
        return self._get(name)

    def _find(self, name: str) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self._package}.{name}"))

    def _message(self, file: Any, name: str) -> Any:
        outer, _, inner = name.rpartition(".")
        if not outer:
            message = file.message_type.add(name=inner)
        else:
            owner = next(each for each in file.message_type if each.name == outer)
            message = owner.nested_type.add(name=inner)
        self._path = name
        return message

    def _field(self, message: Any, number: int, kind: str, name: str) -> None:
        name, _, choice = name.partition("?")
        field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
        if kind.startswith("<"):
            key, value = kind[1:-1].split(",")
            entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
            entry = message.nested_type.add(name=entry_name)
            entry.options.map_entry = True
            for place, each, label in ((1, key, "key"), (2, value, "value")):
                part = entry.field.add(name=label, number=place, label=_Field.LABEL_OPTIONAL)
                self._type(part, each)
            field.label = _Field.LABEL_REPEATED
            field.type = _Field.TYPE_MESSAGE
            field.type_name = f".{self._package}.{self._path}.{entry_name}"
            return
        if kind.startswith("*"):
            field.label = _Field.LABEL_REPEATED
        self._type(field, kind.lstrip("*"))
        if choice:
            names = [each.name for each in message.oneof_decl]
            if choice not in names:
                message.oneof_decl.add(name=choice)
                names.append(choice)
            field.oneof_index = names.index(choice)

    def _type(self, field: Any, kind: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type = _Field.TYPE_ENUM if kind in self._enums else _Field.TYPE_MESSAGE
            field.type_name = f".{self._package}.{kind}"
