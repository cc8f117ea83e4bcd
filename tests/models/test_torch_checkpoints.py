"""Laws of pickles: tensors are read, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from foreign_files import random_state, refused, small_state

import s2sr_xr
from s2sr_xr.errors import ModelError
from s2sr_xr.models.importers import pytorch
from s2sr_xr.models.importers.checkpoint import import_checkpoint


@pytest.mark.parametrize("wrap", ["", "module."])
@pytest.mark.parametrize("legacy", [False, True])
def test_csr_in_its_published_layout(tmp_path, wrap, legacy):
    state = random_state("csr")
    path = tmp_path / "CSR_Real_L1B.pth.tar"
    checkpoint = {"state_dictCSR": {wrap + k: v for k, v in state.items()}, "epoch": 7}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    made = import_checkpoint(path, "l1bsr-csr", out=tmp_path)
    found = s2sr_xr.load_model(made).state_dict()
    assert all(torch.equal(found[k], v) for k, v in state.items())
    assert s2sr_xr.get_spec(made).levels == ("L1B",)


def test_rec_in_its_published_layout(tmp_path):
    state = random_state("rec")
    assert "body.9.body.19.body.3.conv_du.2.weight" in state
    torch.save(state, tmp_path / "REC_Real_L1B.pt")
    made = import_checkpoint(tmp_path / "REC_Real_L1B.pt", "l1bsr-rec", out=tmp_path)
    found = s2sr_xr.load_model(made).state_dict()
    assert all(torch.equal(found[k], v) for k, v in state.items())


class Canary:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("how", ["zip", "legacy", "raw", "inside"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, how):
    path, canary = tmp_path / "a.pt", Canary(tmp_path / "canary")
    if how == "raw":
        path.write_bytes(pickle.dumps(canary, protocol=2))
    else:
        loaded = {"head.0.weight": canary} if how == "inside" else canary
        torch.save(loaded, path, _use_new_zipfile_serialization=how != "legacy")
    refused(
        path,
        "l1bsr-rec",
        "more than tensors.*may run code.*Nothing was executed",
        tmp_path,
    )
    out = tmp_path / "out.safetensors"
    with pytest.raises(ModelError, match=r"asks for (posix|nt)\.system") as caught:
        import_checkpoint(path, "l1bsr-csr", out=out)
    assert "False" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_programs_and_whole_networks_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    refused(tmp_path / "whole.pt", "l1bsr-rec", "asks for torch.nn", tmp_path)
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", pickle.dumps({}))
        archive.writestr("script/constants.pkl", b"x")
        archive.writestr("script/code/__torch__.py", b"def forward(self): ...")
    refused(tmp_path / "script.pt", "l1bsr-rec", "TorchScript program", tmp_path)


def test_bombs_are_refused(tmp_path):
    path = tmp_path / "expanded.pt"
    torch.save({"head.0.weight": torch.zeros(1).expand(10**11)}, path)
    refused(path, "l1bsr-rec", "declares tensors of 400000000000", tmp_path)
    path = tmp_path / "zeros.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros/data.pkl", bytes(10**7))
    refused(path, "l1bsr-rec", "unpacks from .* to 10000000 bytes", tmp_path)
    path = tmp_path / "twelvefold.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", np.random.default_rng(0).bytes(2000) * 12)
    refused(path, "l1bsr-rec", "made to fill the memory", tmp_path)


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        ({"epoch": 3, "state": {}}, "'epoch' is int, not a tensor"),
        ([torch.zeros(3)], "holds a list, not a state dict"),
        ({}, "holds the keys , not a state dict"),
        ({"a": torch.zeros(3).to_sparse()}, "a is not a plain tensor"),
        (small_state(), "holds another architecture: 1 tensors|another architecture"),
    ],
)
def test_another_checkpoint_is_refused(tmp_path, loaded, said):
    torch.save(loaded, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "l1bsr-rec", said, tmp_path)
    refused(
        tmp_path / "a.pt", "l1bsr-csr", "has no 'state_dictCSR'; it holds", tmp_path
    )


def test_a_torch_with_holes_opens_no_pickle(tmp_path):
    said = r"torch 2\.9\.1.*Upgrade to torch 2\.10"
    with pytest.raises(ModelError, match=said):
        pytorch.check_torch(tmp_path / "a.pt", "2.9.1+cpu")
    pytorch.check_torch(tmp_path / "a.pt", "2.10.0")
    assert pytorch.SAFE == (2, 10)
