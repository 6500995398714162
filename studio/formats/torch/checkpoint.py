"""Files of torch.save (.pt, .pth, .ckpt, .bin): weights, checkpoints of trainers, and whole pickled modules.

A file that holds tensors and containers alone is loaded without a question. Whatever names more runs code when it is
loaded, and so does the Python beside it that makes the network: both wait for the user's yes, by hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.core.errors import CodeFile, InvalidInput, Refused
from studio.formats.base import ArrivalFiles, Converted, Kit, Network, Recognition
from studio.formats.pickles.screen import code_file
from studio.formats.torch.archive import archive_kind, beyond, first_words, imports_of, is_legacy, is_pickled
from studio.formats.torch.common import import_torch
from studio.formats.torch.factory import LoadedNetwork, no_factory


class TorchCheckpointFormat:
    """Recognised by the archive of torch.save, by the magic number of PyTorch before 1.6, or as a pickle of it."""

    name = "torch-checkpoint"
    title = "PyTorch checkpoint, state_dict or module (.pt, .pth)"
    extra: str | None = "torch"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [file for file in files.content if _is_checkpoint(file)]
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:5])
            raise InvalidInput(
                f"There are {len(found)} PyTorch files in this arrival: {names}.",
                "An arrival becomes one version of one model.",
                "Drop each of them alone, with its own NAME.py.",
            )
        return Recognition(model=found[0], detail=first_words(found[0])) if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        loaded = self._load(files, recognition, kit)
        from studio.formats.torch._build import convert_network

        sources = (recognition.model, *(file.path for file in loaded.code.files))
        return convert_network(loaded.module, files, loaded.code, out_dir, kit, sources, loaded.notes)

    def network(self, files: ArrivalFiles, recognition: Recognition, graph: Path, kit: Kit) -> Network:
        loaded = self._load(files, recognition, kit)
        from studio.formats.torch._build import network_model
        from studio.formats.torch._network import trainable

        return trainable(network_model(loaded.module, files, loaded.code, kit, recognition.model.name)[0], graph, kit)

    def _load(self, files: ArrivalFiles, recognition: Recognition, kit: Kit) -> LoadedNetwork:
        """The network with its weights. Raises what convert does."""
        path = recognition.model
        kit.report(0.0, "loading PyTorch")
        import_torch(f"'{path.name}' is a PyTorch file.")
        from studio.formats.torch._build import make
        from studio.formats.torch._code import user_code
        from studio.formats.torch._pickle import check_classes, load_plain
        from studio.formats.torch._state import put, states

        kit.report(0.2, "looking for code in the file")
        code = user_code(files.content, files.stem)
        imports = imports_of(path)
        loaded = None if beyond(imports) else load_plain(path)
        asked = list(code.as_code())
        if loaded is None:
            check_classes(path, imports, code)
            asked.insert(0, code_file(path, beyond(imports) or imports))
        elif code.factory is None:
            raise no_factory(path, files.stem, states(loaded), code.files)
        loaded = self._trusted(path, loaded, tuple(asked), code, kit)
        kit.report(0.3, "loading the weights")
        module = _module_in(loaded)
        if module is not None:
            return LoadedNetwork(module, code)
        if code.factory is None:
            raise no_factory(path, files.stem, states(loaded), code.files)
        network = make(code)
        return LoadedNetwork(network, code, put(network, states(loaded), path.name, code.factory.path.name))

    def _trusted(self, path: Path, loaded: Any, asked: tuple[CodeFile, ...], code: Any, kit: Kit) -> Any:
        """What the file holds, once the user said yes to all that would run."""
        if not asked:
            return loaded
        why = "Loading this file runs what it names." if loaded is None else ""
        if code.files:
            why += f"{' ' if why else ''}The network is made by running the Python beside the weights."
        kit.trust(asked, why)
        if loaded is not None:
            return loaded
        from studio.formats.torch._pickle import load_trusted

        return load_trusted(path, code)


def _is_checkpoint(path: Path) -> bool:
    return archive_kind(path) == "pickle" or is_legacy(path) or is_pickled(path)


def _module_in(loaded: Any) -> Any:
    """The network in what was loaded: itself, or the first one in a checkpoint."""
    import torch

    if isinstance(loaded, torch.jit.ScriptModule):
        raise Refused("This file wraps a TorchScript module.", "It can not be read apart.", "Drop that file itself.")
    if isinstance(loaded, torch.nn.Module):
        return loaded
    if isinstance(loaded, dict):
        return next((value for value in loaded.values() if isinstance(value, torch.nn.Module)), None)
    return None


FORMAT = TorchCheckpointFormat()
