"""Laws of Keras files: published layouts become our networks; nothing in them runs."""

from __future__ import annotations

import base64
import marshal

import numpy as np
import pytest
from foreign_files import (
    MODELS,
    SMALL,
    assert_holds,
    chain,
    conv_names,
    convolutions,
    h5py,
    keras_file,
    refused,
)

import s2sr_xr
from s2sr_xr.models.header import read_header
from s2sr_xr.models.importers.checkpoint import import_checkpoint
from s2sr_xr.models.weights_check import digest


@pytest.mark.parametrize(
    ("kind", "takes", "makes"), [("dsen2-20m", 10, 6), ("dsen2-60m", 12, 2)]
)
def test_dsen2_in_its_published_layout(tmp_path, kind, takes, makes):
    pairs = convolutions(takes, makes)
    source = keras_file(tmp_path / "s2_032_lr_1e-04.hdf5", pairs, config=None)
    made = import_checkpoint(source, kind, out=tmp_path)
    assert made == tmp_path / f"{kind}.safetensors"
    assert_holds(made, pairs)
    spec, _ = MODELS[kind]
    found = s2sr_xr.get_spec(made)
    assert found.sha256 == digest(made)
    assert (found.licence, found.margin) == ("GPL-3.0-only", spec.margin)
    notes = read_header(made).notes
    assert notes["source"] == "s2_032_lr_1e-04.hdf5"
    assert notes["source_sha256"] == digest(source)


def shuffled(names):
    return [names[i] for i in np.random.default_rng(1).permutation(len(names))]


@pytest.mark.parametrize("version", [2, 3])
def test_layers_run_in_the_order_of_the_graph(tmp_path, version):
    """Neither names, nor lists, nor places in the file say it: the graph does."""
    pairs, names = convolutions(), shuffled(conv_names(14, first=37))
    source = keras_file(
        tmp_path / "a.hdf5",
        pairs,
        names,
        config=chain(names, version),
        listed=sorted(names),
    )
    assert_holds(import_checkpoint(source, "dsen2-20m", out=tmp_path), pairs)


def test_without_a_graph_the_list_is_the_order(tmp_path):
    """Keras lists layers as they run, and numbers them so, over 9 too."""
    pairs = convolutions()
    for name, whole in (("a.hdf5", True), ("b.h5", False)):
        names = conv_names(14, first=3)
        source = keras_file(tmp_path / name, pairs, names, whole=whole)
        out = tmp_path / f"{name}.safetensors"
        assert_holds(import_checkpoint(source, "dsen2-20m", out=out), pairs)


def test_an_order_that_cannot_be_told_is_refused(tmp_path):
    names = conv_names(14)
    source = keras_file(
        tmp_path / "a.hdf5", convolutions(), names, listed=sorted(names)
    )
    refused(source, "dsen2-20m", "their order is unknown", tmp_path)


def test_lambda_code_is_not_run(tmp_path):
    canary = tmp_path / "canary"
    code = compile(f"open({str(canary)!r}, 'w')", "x", "exec")
    function = [base64.b64encode(marshal.dumps(code)).decode(), None, None]
    layer = {
        "class_name": "Lambda",
        "name": "lambda_1",
        "config": {"name": "lambda_1", "function": function, "module": "os"},
        "inbound_nodes": [[["conv2d_1", 0, 0, {}]]],
    }
    pairs, names = convolutions(), conv_names(14)
    source = keras_file(tmp_path / "a.hdf5", pairs, config=chain(names, extra=[layer]))
    assert_holds(import_checkpoint(source, "dsen2-20m", out=tmp_path), pairs)
    assert not canary.exists()


def tampered(tmp_path, change, pairs=None):
    source = keras_file(tmp_path / "a.hdf5", pairs or convolutions(**SMALL))
    with h5py.File(source, "a") as file:
        change(file["model_weights"], file)
    return source


def replaced(make):
    """Return a change that puts something else in the place of a kernel."""

    def change(group, file):
        place = group["conv2d_5/conv2d_5"]
        del place["kernel:0"]
        make(place, file)

    return change


def external_link(place, file):
    place["kernel:0"] = h5py.ExternalLink("secret.hdf5", "/secret")


def soft_link(place, file):
    place["kernel:0"] = h5py.SoftLink("/model_weights/conv2d_1/conv2d_1/kernel:0")


def external_storage(place, file):
    shape = (3, 3, 8, 8)
    place.create_dataset(
        "kernel:0", shape, "f4", external=[("secret.raw", 0, 4 * 9 * 64)]
    )


def virtual(place, file):
    layout = h5py.VirtualLayout((3, 3, 8, 8), "f4")
    layout[:] = h5py.VirtualSource("secret.hdf5", "secret", (3, 3, 8, 8))
    place.create_virtual_dataset("kernel:0", layout)


def bomb(place, file):
    place.create_dataset("kernel:0", (3, 3, 10**5, 10**5), "f4", chunks=(3, 3, 8, 8))


def zipped(place, file):
    zeros = np.zeros((3, 3, 1024, 1024), "f4")
    place.create_dataset("kernel:0", data=zeros, compression="gzip")


def words(place, file):
    place["kernel:0"] = np.array([b"abc"] * 9)


def plug_in(place, file):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((3, 3, 8, 8))
    settings.set_filter(32000, h5py.h5z.FLAG_OPTIONAL, (0,))
    space = h5py.h5s.create_simple((3, 3, 8, 8))
    h5py.h5d.create(place.id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, settings)


def deleted(place, file):
    pass


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (external_link, "ExternalLink, which may read another file"),
        (soft_link, "SoftLink, which may"),
        (external_storage, "keeps its values in another file"),
        (virtual, "keeps its values in another file"),
        (bomb, "bytes but declares tensors of 360000000000"),
        (zipped, "made to fill the memory"),
        (words, "not an array of floats"),
        (plug_in, r"needs the plug-ins \{32000\}"),
        (deleted, "damaged: it has no 'conv2d_5/kernel:0'"),
    ],
)
def test_what_hdf5_can_hide_is_refused(tmp_path, make, said):
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["secret"] = np.zeros((3, 3, 8, 8), "f4")
    (tmp_path / "secret.raw").write_bytes(bytes(4 * 9 * 64))
    refused(tampered(tmp_path, replaced(make)), "dsen2-20m", said, tmp_path)


def linked_group(group, file):
    del file["model_weights"]
    file["model_weights"] = h5py.ExternalLink("secret.hdf5", "/")


def many_names(group, file):
    group.attrs["layer_names"] = np.zeros(5000, "S2")


def many_kernels(group, file):
    """One dataset that many layers share."""
    big = file.create_dataset("big", data=np.zeros((3, 3, 100, 100), "f4"))
    for name in conv_names(14):
        del group[f"{name}/{name}/kernel:0"]
        group[f"{name}/{name}/kernel:0"] = big


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (linked_group, "ExternalLink"),
        (many_names, r"layer_names lists \(5000,\) names"),
        (many_kernels, "made to fill the memory"),
        (lambda g, f: f.attrs.update(model_config=np.bytes_("{")), "does not describe"),
        (lambda g, f: f.attrs.update(model_config="[" * 50_000), "does not describe"),
        (lambda g, f: f.attrs.update(model_config=chain(["a"])), "not have the layers"),
        (
            lambda g, f: f.attrs.update(
                model_config=chain(["a", "b"]).replace('"input_1", 0', '"b", 0')
            ),
            "loop of layers",
        ),
        (lambda g, f: g["conv2d_1"].attrs.update(weight_names=["conv2d_1/bias:0"]),
         "not the kernel and bias"),
    ],
)  # fmt: skip
def test_a_strange_keras_file_is_refused(tmp_path, change, said):
    refused(tampered(tmp_path, change), "dsen2-20m", said, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"takes": 12, "makes": 2},
            "takes 12 bands, this kind 10: B04 B03 B02 B08 B05",
        ),
        ({"makes": 2}, "makes 2 bands, this kind 6"),
        ({"blocks": 32}, "holds 66 convolutions, this kind has 14"),
        ({}, r"head.weight has the shape \(8, 10, 3, 3\), the model needs \(128, 10"),
    ],
)
def test_another_keras_network_is_refused(tmp_path, options, said):
    source = keras_file(tmp_path / "a.hdf5", convolutions(**SMALL | options))
    refused(source, "dsen2-20m", said, tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    pairs = convolutions()
    pairs[3][0][0, 0, 0, 0] = np.nan
    source = keras_file(tmp_path / "a.hdf5", pairs)
    refused(source, "dsen2-20m", r"trunk\.1\.conv1\.weight holds values", tmp_path)
