import io

import pytest
import torch

from funn.errors import UserError
from funn.method.networks import DenseAutoEncoder
from funn.training.checkpoint import digest, load, read, save

SPEC = {
    "_target_": "funn.method.networks.DenseAutoEncoder",
    "image_shape": [1, 8, 8],
    "channels": [4],
    "features": 3,
    "noise": 2,
}


def network(seed=0):
    torch.manual_seed(seed)
    return DenseAutoEncoder((1, 8, 8), [4], 3, 2)


def test_a_checkpoint_rebuilds_its_network(tmp_path):
    save(tmp_path / "model.ckpt", {"attacker": (SPEC, network())})
    loaded = load(tmp_path / "model.ckpt")["attacker"]
    assert loaded.spec == SPEC
    assert not loaded.module.training
    for name, value in network().state_dict().items():
        assert torch.equal(value, loaded.module.state_dict()[name])


def test_it_loads_with_torch_defaults(tmp_path):
    save(tmp_path / "model.ckpt", {"attacker": (SPEC, network())})
    assert torch.load(tmp_path / "model.ckpt", weights_only=True)["modules"]["attacker"]


def test_the_same_weights_give_the_same_bytes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save(tmp_path / name, {"attacker": (SPEC, network(seed))})
    content = [(tmp_path / name).read_bytes() for name in "abc"]
    assert content[0] == content[1] != content[2]


def test_the_digest_is_of_weights_and_numbers():
    others = (network(1), SPEC), (network(), SPEC | {"noise": 0})
    digests = {
        digest({"attacker": (spec, module)}) for module, spec in ((network(), SPEC), *others)
    }
    assert len(digests) == 3
    assert digest({"attacker": (SPEC, network())}) in digests
    assert digest({"defender": (SPEC, network())}) not in digests


@pytest.mark.parametrize("there", [True, False])
def test_networks_of_other_code_are_refused_unless_they_are_asked_for(tmp_path, caplog, there):
    path = tmp_path / "model.ckpt"
    save(path, {"attacker": (SPEC, network())})
    content = torch.load(path, weights_only=True)
    if there:
        content["code"]["funn.method.networks"] = "of another day"
    else:
        content["code"]["funn.gone"] = "of another day"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"has changed .*\(funn\..*changed_code=true"):
        load(path)
    assert not caplog.records
    loaded = load(path, changed_code=True)["attacker"].module
    assert "has changed since training" in caplog.text
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.encoder(x), network().eval().encoder(x))


def test_a_truncated_checkpoint_is_one_clear_line(tmp_path):
    path = tmp_path / "model.ckpt"
    save(path, {"attacker": (SPEC, network())})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        load(path)


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "model.ckpt"
    save(path, {"attacker": (SPEC, network())})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    torch.load(io.BytesIO(content), weights_only=True)  # torch alone finds nothing
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load(path)


def test_a_missing_checkpoint_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        load(tmp_path / "model.ckpt")


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "content",
    [
        Evil(),
        [1, 2],
        {"format": 1},
        {"format": 2, "modules": {}},
        {"format": 3, "modules": {}, "code": {}},
    ],
)
def test_anything_else_is_refused(tmp_path, capsys, content):
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(UserError):
        load(tmp_path / "model.ckpt")
    assert "executed" not in capsys.readouterr().out


def test_a_resume_file_holds_a_dictionary(tmp_path):
    torch.save([1, 2], tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        read(tmp_path / "last.ckpt")


def test_a_spec_can_build_networks_only(tmp_path):
    content = {"spec": {"_target_": "os.mkdir", "path": str(tmp_path / "made")}, "state": {}}
    whole = {"format": 2, "modules": {"attacker": content}, "code": {}}
    torch.save(whole, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"not a torch\.nn\.Module"):
        load(tmp_path / "model.ckpt")
    assert not (tmp_path / "made").exists()
