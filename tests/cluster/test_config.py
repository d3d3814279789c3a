"""Sources merge in order, and every mistake is named with its source."""

from pathlib import Path

import pytest

from actors.base.errors import InvalidArgument
from cluster.config import load


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "russet.toml"
    file.write_text('[gateway]\nport = 8001\nhost = "0.0.0.0"\n[scheduler]\nqueue_limit = 7\n')
    config = load(file, {"gateway.port": 8003}, {"RUSSET_GATEWAY__PORT": "8002", "RUSSET_SCHEDULER__QUEUE_LIMIT": "9"})
    assert (config.gateway.port, config.gateway.host, config.scheduler.queue_limit) == (8003, "0.0.0.0", 9)


def test_file_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[gateway]\nport = 8123\n")
    assert load(None, None, {"RUSSET_CONFIG": str(file)}).gateway.port == 8123


def test_deterministic_reaches_every_model() -> None:
    config = load(None, None, {"RUSSET_DETERMINISTIC": "1"})
    assert config.deterministic
    assert all(model.deterministic for model in config.models)


def test_paths_and_defaults_are_filled_in(tmp_path: Path) -> None:
    config = load(None, {"home": tmp_path, "models.0.model_id": "tiny"}, {})
    assert config.memory.directory == tmp_path / "memory"
    assert config.memory.key_file == tmp_path / "cluster.key"
    assert config.router.default_model == "tiny"
    assert config.models[0].kv_disk_directory == tmp_path / "kv"
    assert config.models[0].key_file == config.memory.key_file


def test_home_signs_are_expanded() -> None:
    config = load(None, {"gateway.api_keys_file": "~/keys", "memory.key_file": "~/key"}, {})
    assert config.gateway.api_keys_file == Path.home() / "keys"
    assert config.memory.key_file == Path.home() / "key"


def test_models_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "russet.toml"
    file.write_text('[[models]]\nmodel = "a.gguf"\n[[models]]\nmodel = "b.gguf"\nreplicas = 2\n')
    config = load(file, {"models.1.threads": 1}, {})
    assert [(model.served_name, model.replicas, model.threads) for model in config.models] == [("a", 1, 0), ("b", 2, 1)]


@pytest.mark.parametrize(
    ("overrides", "environ", "expected"),
    [
        ({"gateway.port": 70000}, {}, ["gateway.port", "70000", "command line"]),
        ({}, {"RUSSET_GATEWAY__PORT": "many"}, ["gateway.port", "'many'", "environment"]),
        ({}, {"RUSSET_GATWAY__PORT": "1"}, ["gatway", "environment", "no such setting"]),
        ({"scheduler.nonsense": 1}, {}, ["scheduler.nonsense", "no such setting"]),
        ({"models.3.threads": 1}, {}, ["models.3", "0 to 0"]),
        ({"models.0.backend": "cuda"}, {}, ["models.0.backend", "'cuda'", "auto"]),
    ],
)
def test_mistakes_are_named(overrides: dict[str, object], environ: dict[str, str], expected: list[str]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load(None, overrides, environ)
    for part in expected:
        assert part in str(refused.value)


def test_broken_and_missing_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("gateway = [")
    with pytest.raises(InvalidArgument, match="not TOML"):
        load(broken, None, {})
    with pytest.raises(InvalidArgument, match="does not exist"):
        load(tmp_path / "none.toml", None, {})


def test_one_name_for_two_models(tmp_path: Path) -> None:
    file = tmp_path / "russet.toml"
    file.write_text('[[models]]\nmodel = "x/a.gguf"\n[[models]]\nmodel = "y/a.gguf"\n')
    with pytest.raises(InvalidArgument, match=r"'a'.*model_id"):
        load(file, None, {})


def test_the_store_s_key_is_never_shown(tmp_path: Path) -> None:
    key = {"RUSSET_MEMORY__SERVER_KEY": "s3cret"}
    url = {"memory.server_url": "http://far.example:6333", "home": str(tmp_path)}
    with pytest.raises(InvalidArgument, match=r"memory \(command line\).*in the clear") as refused:
        load(None, url, key)
    config = load(None, url | {"memory.server_url": "https://far.example:6333"}, key)
    assert "s3cret" not in config.model_dump_json() + repr(config) + str(refused.value)
    assert config.memory.key_of_server() == "s3cret"


def test_the_number_of_replicas_starts_within_its_limits() -> None:
    accepted = load(None, {"models.0.max_replicas": 3, "models.0.replicas": 2}, environ={}).models[0]
    assert (accepted.least, accepted.max_replicas) == (1, 3)
    for wrong in ({"replicas": 4, "max_replicas": 3}, {"replicas": 1, "min_replicas": 2, "max_replicas": 3}):
        with pytest.raises(InvalidArgument, match="accepted are min_replicas"):
            load(None, {f"models.0.{name}": value for name, value in wrong.items()}, environ={})
    with pytest.raises(InvalidArgument, match="min_replicas = 2 has nothing to do"):
        load(None, {"models.0.min_replicas": 2}, environ={})
