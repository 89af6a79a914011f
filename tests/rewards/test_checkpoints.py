"""Weight files that fit, and those that do not: one line says which file, what, and what may be."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components.contracts.errors import ModelError
from components.rewards.scorers.checkpoints import (
    Source,
    load_weights,
    published_shapes,
    read_weights,
    unallocated,
)
from components.rewards.scorers.hub import pretrained_tokenizer, weight_file
from tests.rewards.tiny_networks import tiny_bert

GOOD = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([7.0, 8.0])}
ALLOWED = "a .safetensors file, or a .pt or .pth file of tensors"


def linear() -> nn.Linear:
    with unallocated():
        return nn.Linear(3, 2)


def refused(path: Path, module: nn.Module | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        load_weights(module or linear(), path, "a test")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
def test_weights_come_back_frozen(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file(GOOD, path) if name.endswith("safetensors") else torch.save(GOOD, path)
    module = load_weights(linear(), path, "a test")
    assert torch.equal(module(torch.ones(1, 3)), torch.tensor([[10.0, 20.0]]))
    assert not module.training and not any(weight.requires_grad for weight in module.parameters())


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_what_a_training_program_kept_beside_the_weights(tmp_path: Path, wrapper: str) -> None:
    torch.save({"epoch": 3, "name": "run", wrapper: GOOD}, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt").keys() == GOOD.keys()


def test_a_file_of_an_old_torch(tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "w.pth")["weight"], GOOD["weight"])


def test_weights_take_the_type_of_the_module(tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "w.pt")
    assert load_weights(linear().half(), tmp_path / "w.pt", "a test").weight.dtype == torch.float16


def test_three_in_one_and_transposed(tmp_path: Path) -> None:
    module = nn.ModuleDict({"k": nn.Linear(2, 1), "v": nn.Linear(2, 1), "q": nn.Linear(2, 1)})
    parts = {"q": 0, "k": 1, "v": 2}

    def naming(name: str) -> Source:
        module, kind = name.split(".")
        return Source(f"in_{kind}", part=parts[module])

    assert published_shapes(module, naming) == {"in_weight": [3, 2], "in_bias": [3]}
    torch.save(
        {"in_weight": torch.arange(6.0).view(3, 2), "in_bias": torch.ones(3)}, tmp_path / "w.pt"
    )
    load_weights(module, tmp_path / "w.pt", "a test", naming)
    assert {name: module[name].weight.tolist() for name in module} == {
        "k": [[2.0, 3.0]],
        "v": [[4.0, 5.0]],
        "q": [[0.0, 1.0]],
    }

    def turned(name: str) -> Source:
        return Source(name, transposed=name == "weight")

    module = linear()
    assert published_shapes(module, turned) == {"weight": [3, 2], "bias": [2]}
    torch.save(GOOD | {"weight": GOOD["weight"].t()}, tmp_path / "w.pt")
    assert torch.equal(
        load_weights(module, tmp_path / "w.pt", "a test", turned).weight, GOOD["weight"]
    )


def test_no_such_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "w.pt") == f"{tmp_path}/w.pt: no such file; allowed: {ALLOWED}"


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 7, 60, 0.5, 0.98])
def test_a_truncated_file(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    save_file(GOOD, path) if name.endswith("safetensors") else torch.save(GOOD, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept == int(kept) else kept * len(content))])
    message = refused(path)
    assert message.startswith(f"{path}: is truncated, or is no weight file (")
    assert message.endswith(f"; allowed: {ALLOWED}")


def test_a_file_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    (tmp_path / "w.pt").write_bytes(pickle.dumps({"weight": Trap()}))
    assert "is truncated, or is no weight file" in refused(tmp_path / "w.pt")
    torch.save({"weight": Trap()}, tmp_path / "w.pt")
    assert "is truncated, or is no weight file" in refused(tmp_path / "w.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [{"weight": 3}, {1: torch.ones(1)}, [torch.ones(1)], 5])
def test_something_other_than_named_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert refused(tmp_path / "w.pt").startswith(
        f"{tmp_path}/w.pt: holds something other than named tensors"
    )


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ({"weight": GOOD["weight"]}, "1 weights missing, first bias"),
        ({}, "2 weights missing, first weight"),
        (GOOD | {"z": torch.ones(1), "a": torch.ones(1)}, "2 unknown, first z"),
        (GOOD | {"weight": torch.ones(3, 2)}, "1 of another shape, first weight [3, 2] for [2, 3]"),
        (
            {"weight": torch.ones(1), "other": torch.ones(1)},
            "1 weights missing, first bias; 1 unknown, first other; "
            "1 of another shape, first weight [1] for [2, 3]",
        ),
    ],
)
def test_another_architecture(tmp_path: Path, weights: dict[str, torch.Tensor], what: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(weights, path)
    expected = f"{path}: holds another architecture: {what}; allowed: the 2 weights of a test"
    assert refused(path) == expected


def test_what_no_score_comes_from_may_be_there_or_not(tmp_path: Path) -> None:
    torch.save(GOOD | {"head": torch.ones(9)}, tmp_path / "w.pt")
    load_weights(linear(), tmp_path / "w.pt", "a test", not_needed=["head"])
    torch.save(GOOD, tmp_path / "w.pt")
    load_weights(linear(), tmp_path / "w.pt", "a test", not_needed=["head"])


def test_a_name_means_a_file_a_folder_or_a_hub_model(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/w.pt").touch()
    expected = tmp_path / "models/w.pt"
    assert weight_file("models", "w.pt", tmp_path) == expected
    assert weight_file("models/w.pt", "other.pt", tmp_path) == expected
    assert weight_file(str(expected), "other.pt", tmp_path / "elsewhere") == expected
    with pytest.raises(ModelError, match=r"models/v\.pt: no such file"):
        weight_file("models", "v.pt", tmp_path)


@pytest.mark.parametrize("name", ["somebody/something", "models/w.pt", "a b/c"])
def test_neither_here_nor_on_a_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        weight_file(name, "w.pt", tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f"{name}: no such file or folder, and no w.pt of this name on the hub or in its cache ("
    )
    assert message.endswith("; allowed: a file, a folder with w.pt, or a hub name")
    with pytest.raises(ModelError, match=f"{name}: is no usable model here"):
        pretrained_tokenizer(name, "a tokenizer", 3)


def test_a_tokenizer_of_another_network(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    assert len(pretrained_tokenizer(folder, "a tokenizer", 59, ["[DEC]", "[ENC]"])) == 59
    with pytest.raises(ModelError) as caught:
        pretrained_tokenizer(folder, "a tokenizer", 60)
    expected = f"{folder}: has a tokenizer of 57 tokens; allowed: a tokenizer, 60 tokens"
    assert str(caught.value) == expected
