"""TorchScript files of torch.jit.save, traced and scripted (.pt)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput
from studio.formats.base import ArrivalFiles, Converted, Kit, Network, Recognition
from studio.formats.pickles.screen import code_file
from studio.formats.torch.archive import archive_kind, beyond, imports_of
from studio.formats.torch.common import import_torch


class TorchScriptFormat:
    """Recognised by its zip: one folder with `constants.pkl`, `data.pkl` and `code/`."""

    name = "torchscript"
    title = "TorchScript (.pt)"
    extra: str | None = "torch"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [file for file in files.content if archive_kind(file) == "script"]
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:5])
            raise InvalidInput(
                f"There are {len(found)} TorchScript files in this arrival: {names}.",
                "An arrival becomes one version of one model.",
                "Drop each of them alone.",
            )
        return Recognition(model=found[0], detail="TorchScript") if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Any, kit: Kit) -> Converted:
        model, told, notes = self._model(files, recognition, kit)
        from studio.formats.torch._choice import Origin, convert

        converted = convert(model, out_dir, kit, Origin((recognition.model,), files.samples is not None, told))
        return replace(converted, notes=(*notes, *converted.notes))

    def network(self, files: ArrivalFiles, recognition: Recognition, graph: Path, kit: Kit) -> Network:
        model, _, _ = self._model(files, recognition, kit)
        from studio.formats.torch._network import trainable

        return trainable(model, graph, kit)

    def _model(self, files: ArrivalFiles, recognition: Recognition, kit: Kit) -> tuple[Any, bool, tuple[str, ...]]:
        """The module with an example of what it takes, whether the user said which sizes are free, and notes."""
        path = recognition.model
        kit.report(0.0, "loading PyTorch")
        import_torch(f"'{path.name}' is a TorchScript file.")
        import torch

        from studio.formats.torch import _script as script
        from studio.formats.torch._inputs import Asked, find_inputs
        from studio.formats.torch._sizes import find_free

        kit.report(0.2, "looking for code in the file")
        names = imports_of(path, script=True)
        odd = beyond(names, script=True)
        if odd:
            # The loader was seen to take no notice of such names; that they are there is no accident.
            kit.trust(
                (code_file(path, odd),), "torch.jit.save writes tensors and scripts; this file names other things."
            )
        torch.set_num_threads(kit.threads)
        module = script.load(path)
        widened = script.widen(module)
        taken = script.arguments(module)
        kinds = {one.name: one.kind for one in taken}
        traced, real = script.traced_inputs(path)
        tensors = [one.name for one in taken if one.kind == "Tensor"]
        given = dict(zip(tensors, traced, strict=False))
        if widened:
            given = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in given.items()}
        for one in taken:
            number = script.example(one.kind)
            if one.needed and number is not None:
                given.setdefault(one.name, number)
        asked = Asked(
            path.name,
            files.stem,
            module,
            tuple(kinds),
            tuple(one.name for one in taken if one.needed),
            lambda tensors: script.call(module, kinds, tensors),
        )
        found = find_inputs(asked, kit, files.samples, given, real)
        model = script.model_of(module, kinds, found.tensors, found.real)
        model.names = tuple(found.renamed.get(name, name) for name in found.tensors)
        model.free = found.free if found.free is not None else find_free(model)
        notes = (*widened, *((found.note,) if found.note else ()))
        return model, bool(found.shapes and not found.note), notes


FORMAT = TorchScriptFormat()
