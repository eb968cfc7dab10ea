"""Models in folders: what goes in comes out, and whatever was changed on the way is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from privfed import Budget, Count, LocalFederation
from privfed.errors import UsageError
from privfed.transfer import DataSet, Deployed, FineTuning, export, load_deployed, personalise, with_new_head
from privfed.transfer.card import Card, markdown, privacy_of

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
nn = torch.nn


def network(seed: int = 0, **options) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3, **options), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2, **options))


def federation(**options) -> LocalFederation:
    rows = LocalFederation([np.ones((3, 2))] * 3, budget=Budget(1.0, 1e-6), **options)
    rows.release(Count(), share=0.3)
    return rows


def exported(path: Path, **options) -> Deployed:
    settings = {
        "name": "Digits",
        "description": "Tells digits apart.",
        "data_sets": [{"name": "clinic", "description": "scans | of 2020", "holders": "3 clinics"}],
        "metrics": {"accuracy": 0.93, "table": [1, None, {"a": "b"}]},
        "classes": ["no", "yes"],
        "license": "Apache-2.0",
    }
    return export(network(), path, **(settings | options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    exported(tmp_path / "model")
    return tmp_path / "model"


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    made = exported(tmp_path / "deep" / "model", federation=federation())
    found = load_deployed(made.path, network(1), digest=made.digest)
    assert found.card == made.card
    expected = network().state_dict()
    for name, value in found.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert not found.model.training
    assert set(found.tensors) == set(expected)
    assert sorted(path.name for path in made.path.iterdir()) == ["README.md", "card.json", "model.safetensors"]
    assert load_deployed(made.path).model is None


def test_the_card_says_what_was_spent(tmp_path: Path) -> None:
    rows = federation()
    card = json.loads((exported(tmp_path / "m", federation=rows).path / "card.json").read_text())
    privacy = card["privacy"]
    assert privacy["epsilon"]["server"] == pytest.approx(rows.ledger.epsilon("server"))
    assert privacy["epsilon"]["unmasked"] > privacy["epsilon"]["client"] > privacy["epsilon"]["server"]
    assert (privacy["epsilon_budget"], privacy["delta"], privacy["unit"]) == (1.0, 1e-6, "record")
    assert privacy["ledger_head"] == rows.ledger.head
    assert privacy["rounds"] == 1
    assert card["metrics"] == {"accuracy": 0.93, "table": [1, None, {"a": "b"}]}
    page = (tmp_path / "m" / "README.md").read_text()
    for words in ("epsilon 1 at delta 1e-06", "| server |", "scans \\| of 2020", "privfed verify", rows.ledger.head):
        assert words in page
    assert "comparison" not in page
    assert "computed of these releases and of public numbers alone" in page  # the ledger cannot know what else was done


def test_the_card_marks_what_protects_nobody(tmp_path: Path) -> None:
    seeded = federation(mode="trusted", noise_seed=1)
    page = markdown(exported(tmp_path / "a", federation=seeded).card)
    assert "**Made for comparison or in a test: trusted, seeded noise.**" in page
    open_rows = LocalFederation([np.ones((3, 2))] * 3)
    open_rows.release(Count())
    assert "**There was no budget.**" in markdown(exported(tmp_path / "b", federation=open_rows).card)
    assert "nothing is known of what was spent" in markdown(exported(tmp_path / "c").card)
    assert privacy_of(open_rows).epsilon == {}


def test_a_program_runs_without_the_modules_code(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Softmax(dim=1))
    made = export(model, tmp_path / "m", name="p", feature_shape=(4,), program=True)
    assert made.card.not_included == {}
    assert "Do not load it unless you trust" in (made.path / "README.md").read_text()
    program = torch.export.load(made.path / "model.pt2")  # our own, a moment old
    for rows in (1, 2, 7):
        inputs = torch.randn(rows, 4)
        torch.testing.assert_close(program.module()(inputs), model(inputs))
    (made.path / "model.pt2").write_bytes(b"anything else")
    with pytest.raises(UsageError, match=r"model\.pt2 is not as it was written"):
        load_deployed(made.path)


def test_a_model_that_cannot_be_traced_is_exported_without(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, inputs):
            return self.layer(inputs) if float(inputs.sum()) >= 0 else -self.layer(inputs)

    made = export(Branching(), tmp_path / "m", name="p", feature_shape=(4,), program=True)
    assert "cannot trace" in made.card.not_included["model.pt2"]
    assert load_deployed(made.path, Branching()).model is not None


@pytest.mark.parametrize("name", ["card.json", "README.md", "model.safetensors"])
@pytest.mark.parametrize("change", ["flip", "append", "empty", "missing", "link", "folder"])
def test_a_changed_file_is_refused(folder: Path, name: str, change: str) -> None:
    digest = hashlib.sha256((folder / "card.json").read_bytes()).hexdigest()
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    if change == "flip":
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    elif change == "append":
        path.write_bytes(data + b" ")
    elif change == "empty":
        path.write_bytes(b"")
    elif change == "link":
        (folder / "elsewhere").write_bytes(data)
        path.symlink_to(folder / "elsewhere")
    elif change == "folder":
        path.mkdir()
    with pytest.raises(UsageError):
        load_deployed(folder, network(), digest=digest)


def rewritten(folder: Path, **changes) -> str:
    """Change the card and make everything fit again, as somebody could who owns the folder."""
    card = json.loads((folder / "card.json").read_text()) | changes
    data = json.dumps(card).encode()
    (folder / "card.json").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def test_only_the_published_digest_tells_a_forged_card(folder: Path) -> None:
    published = hashlib.sha256((folder / "card.json").read_bytes()).hexdigest()
    rewritten(folder, description="Also drives cars.")
    assert load_deployed(folder).card.description == "Also drives cars."
    with pytest.raises(UsageError, match="this is not the model you asked for"):
        load_deployed(folder, digest=published)
    with pytest.raises(UsageError, match="this is not the model"):
        load_deployed(folder, digest="")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "expected 'privfed model card'"),
        ({"version": 2}, "version 2"),
        ({"more": 1}, "unknown field"),
        ({"tensors": []}, "other tensors"),
        ({"name": 3}, "is no model card"),
        ({"files": []}, "the card names files"),
        ({"files": [{"name": "../card.json", "size": 1, "sha256": ""}]}, "the card names files"),
    ],
)
def test_a_malformed_card_is_refused(folder: Path, changes: dict, message: str) -> None:
    rewritten(folder, **changes)
    with pytest.raises(UsageError, match=message):
        load_deployed(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}q\x00.",  # a pickle
        (2**60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'[:64],
    ],
)
def test_what_is_no_safetensors_file_is_refused(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    card = json.loads((folder / "card.json").read_text())
    for file in card["files"]:
        if file["name"] == "model.safetensors":
            file.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    rewritten(folder, files=card["files"])
    with pytest.raises(UsageError, match="no safetensors file"):
        load_deployed(folder)


def test_large_files_are_not_read(folder: Path) -> None:
    with pytest.raises(UsageError, match="more than 10 bytes"):
        load_deployed(folder, largest=10)
    os.truncate(folder / "card.json", 2**23)
    with pytest.raises(UsageError, match="more than 4194304 bytes"):
        load_deployed(folder)


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(4, 3),
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 5)),
        network(dtype=torch.float64),
    ],
)
def test_weights_of_another_model_are_refused(folder: Path, model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UsageError, match="the weights do not fit the model, which differs in name, type or shape of"):
        load_deployed(folder, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": {"a": [float("nan")]}}, r"metrics\.a\.0 is nan"),
        ({"metrics": {"a": np.float32("inf")}}, r"metrics\.a is inf"),
        ({"metrics": {"a": np.array([1.0, np.nan])}}, r"metrics\.a\.1 is nan"),
        ({"metrics": {"a": object()}}, r"not plain JSON.*float\(x\)"),
        ({"data_sets": [{"name": "x"}]}, "described wrongly"),
        ({"program": True}, "give feature_shape="),
        ({"feature_shape": (0,)}, "a side of feature_shape is 0"),
    ],
)
def test_a_bad_export_leaves_nothing_behind(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        exported(tmp_path / "m", **options)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_are_numbers_of_a_card(tmp_path: Path) -> None:
    metrics = {"a": np.float32(0.5), "b": {"c": [np.float64(0.25), np.int64(3)]}, "d": np.eye(2), "e": np.True_}
    found = exported(tmp_path / "m", metrics=metrics).card.metrics
    assert found == {"a": 0.5, "b": {"c": [0.25, 3]}, "d": [[1.0, 0.0], [0.0, 1.0]], "e": True}


def test_what_builds_a_model_is_no_model(tmp_path: Path) -> None:
    exported(tmp_path / "m")
    with pytest.raises(UsageError, match=r"load_deployed\(path, build\(\)\)"):
        load_deployed(tmp_path / "m", network)
    with pytest.raises(UsageError, match="expected a torch module, such as a learner's model_"):
        personalise(FineTuning(network()), np.eye(4), np.zeros(4))


def test_weights_that_are_of_no_use_are_not_exported(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(UsageError, match=r"tensor '0\.weight' holds NaN"):
        export(model, tmp_path / "m", name="x")
    with pytest.raises(UsageError, match="no weights"):
        export(nn.ReLU(), tmp_path / "m", name="x")


def test_a_folder_is_never_written_twice(folder: Path) -> None:
    with pytest.raises(UsageError, match="is there already"):
        exported(folder)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        exported(tmp_path / "file" / "m")


def test_tied_weights_and_half_numbers_go_through(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to(torch.bfloat16)
    model[1].weight = model[0].weight
    made = export(model, tmp_path / "m", name="tied")
    again = load_deployed(made.path, model, digest=made.digest.upper()).model
    assert again[1].weight is again[0].weight
    assert {one.dtype for one in made.card.tensors} == {"bfloat16"}


def test_a_card_travels_as_json() -> None:
    card = Card("f", 1, "n", "d", "", "a", [], [], [], [DataSet("x", "y")], None, {}, {}, [], {})
    assert msgspec.json.decode(msgspec.json.encode(card), type=Card) == card


def test_a_learner_in_the_place_of_its_model_is_pointed_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model is a dict, expected a torch module, such as a learner's model_"):
        export({}, tmp_path / "model", name="no model", description="", data_sets=[])
    assert not list(tmp_path.iterdir())


# --- models that a client's own rows went into ------------------------------------------------------------------------


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def at_home(how: str, silos: LocalFederation) -> nn.Module:
    rng = np.random.default_rng(3)
    own = personalise(plain(), rng.normal(size=(12, 5)), rng.integers(0, 3, 12), epochs=1)
    if how == "copied":
        return copy.deepcopy(own)
    if how == "inside another":
        return nn.Sequential(own, nn.Identity())
    if how == "a part":
        return nn.Sequential(*list(own.children()))
    if how == "new head":
        return with_new_head(own, 2)
    if how in ("all", "adapters"):  # trained on under the federation's budget, from a start that no budget covers
        return FineTuning(own, rounds=1, mode=how, rank=2, random_state=0).fit(silos).model_
    if how == "personal parameters":
        memories = {name: {} for name in silos.clients}
        more = LocalFederation({name: rows_of(index) for index, name in enumerate(memories)}, memories=memories)
        tuned = FineTuning(plain(), rounds=1, personal="2.*", random_state=0).fit(more)
        return tuned.personal_model(next(iter(memories.values())))
    return own


def rows_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(20, 5)), rng.integers(0, 3, 20)


@pytest.mark.filterwarnings("ignore:noise will drown")
@pytest.mark.parametrize(
    "how",
    ["personalised", "copied", "inside another", "a part", "new head", "all", "adapters", "personal parameters"],
)
def test_no_card_claims_a_federations_budget_for_rows_that_it_never_covered(tmp_path: Path, how: str) -> None:
    silos = LocalFederation([rows_of(seed) for seed in range(3)], budget=Budget(4.0, 1e-5, unit="client"))
    model = at_home(how, silos)
    with pytest.raises(UsageError, match=r"ledger does not cover: leave federation= out .*load_state_dict"):
        export(model, tmp_path / "m", name="own", federation=silos)
    assert not (tmp_path / "m").exists()
    assert export(model, tmp_path / "m", name="own").card.privacy is None
    if how in ("personalised", "copied"):  # the remedy where the rows were public
        fresh = plain()
        fresh.load_state_dict(model.state_dict())
        assert export(fresh, tmp_path / "public", name="own", federation=silos).card.privacy is not None


@pytest.mark.filterwarnings("ignore:noise will drown")
def test_what_a_federation_trained_from_public_numbers_is_not_marked(tmp_path: Path) -> None:
    silos = LocalFederation([rows_of(seed) for seed in range(3)], budget=Budget(4.0, 1e-5, unit="client"))
    tuned = FineTuning(plain(), rounds=1, random_state=0).fit(silos)
    assert export(tuned.model_, tmp_path / "m", name="shared", federation=silos).card.privacy.protected
