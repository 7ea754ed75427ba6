"""What counts as a secret, and that none is left in what is made for files, logs and people."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, fields
from enum import StrEnum

import pytest

from prefopt.training import trainers
from prefopt.training.arguments import ModelConfig, ScriptArguments
from prefopt.training.config import PreferenceConfig
from prefopt.utils import secrets
from prefopt.utils.secrets import MARK, GuardedStream, is_secret_name, marks_in, redacted, without_named

VALUE = "s3cr3t-Value&<1>"


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_remembered", set())


@pytest.mark.parametrize(
    "name",
    [
        *("token", "hub_token", "hub-token", "push_to_hub_token", "use_auth_token", "HF_TOKEN", "access_token"),
        *("api_key", "apikey", "OPENAI_API_KEY", "password", "db_passwd", "client_secret", "aws_secret_access_key"),
        *("Authorization", "credentials", "private_key"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["eos_token", "pad_token", "max_new_tokens", "key_env", "tokenizer", "key", "max_tokens_per_batch", 3]
)
def test_names_of_others(name: object) -> None:
    assert not is_secret_name(name)


def test_of_all_arguments_of_the_trainers_one_holds_a_secret() -> None:
    """A new argument that does must be found by its name, and no other may be taken for one."""
    kinds = [PreferenceConfig, ModelConfig, ScriptArguments]
    kinds += [kind for name, kind in vars(trainers).items() if name.endswith("Config") and isinstance(kind, type)]
    names = {field.name for kind in kinds for field in fields(kind)}
    assert {name for name in names if is_secret_name(name)} == {"hub_token"}


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "API_TOKEN_2"])
def test_a_secret_of_the_environment_is_known_in_every_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, VALUE)
    said = f"{VALUE} {json.dumps(VALUE)} s3cr3t-Value%26%3C1%3E s3cr3t-Value&amp;&lt;1&gt; {VALUE!r}"
    assert redacted(said) == f"{MARK} \"{MARK}\" {MARK} {MARK} '{MARK}'"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PWD", "a-long-value"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("TOKENIZERS_PARALLELISM", "false-and-long")],
)
def test_what_is_no_secret_of_the_environment_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(f"say {value} 1") == f"say {value} 1"


def test_the_path_of_a_file_with_a_secret_is_none(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    assert redacted(f"{tmp_path}/x") == f"{tmp_path}/x"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://user:pass@host/v1 failed", f"http://{MARK}@host/v1 failed"),
        ("https://ghost@host", f"https://{MARK}@host"),
        ("see https://host/a@b and me@host", "see https://host/a@b and me@host"),
        ("get https://host/x.jsonl?a=1&api_key=v+1 failed", f"get https://host/x.jsonl?a=1&api_key={MARK} failed"),
        (
            "https://host/x?X-Amz-Signature=v&X-Amz-Date=2026#top",
            f"https://host/x?X-Amz-Signature={MARK}&X-Amz-Date=2026#top",
        ),
        ("'az://c.net/x?sv=2&sig=v%3D', https://h/x?key=v", f"'az://c.net/x?sv=2&sig={MARK}', https://h/x?key={MARK}"),
        ("https://host/x?max_tokens=9&monkey=v", "https://host/x?max_tokens=9&monkey=v"),
        ("in text ?key=v and a&token=v", "in text ?key=v and a&token=v"),
        ("见 https://host/x?key=v，然后重试", f"见 https://host/x?key={MARK}，然后重试"),
        ("token hf_" + "aB3" * 10, f"token {MARK}"),
        ("hf_config stays", "hf_config stays"),
    ],
)
def test_forms_of_secrets(text: str, left: str) -> None:
    assert redacted(text) == left


def test_a_command_lines_secrets_are_known() -> None:
    words = ["--hub_token", "value-one", "--token=value-two", "--kwargs", '{"a": {"token": "value-three"}}']
    secrets.remember_words([*words, "--kwargs", "{no json", "--beta", "a-setting", "--password", "short"])
    assert redacted("value-one value-two value-three a-setting") == f"{MARK} {MARK} {MARK} a-setting"
    assert redacted("a short word") == "a short word"


class Kind(StrEnum):
    ONE = "hidden-value"


@dataclass
class Part:
    text: str
    token: str | None = None
    kind: Kind = Kind.ONE


def test_copies_lack_secrets_at_any_depth_and_keep_types() -> None:
    secrets.remember_value("hidden-value")
    given = {"a": [Part("with hidden-value", "x"), ("b", 1.5, None)], "hub_token": ["y"], "n": {"hidden-value": True}}
    copy = secrets.without_secrets(given)
    assert copy == {"a": [Part(f"with {MARK}", MARK), ("b", 1.5, None)], "hub_token": [MARK], "n": {MARK: True}}
    assert copy["a"][0].kind is Kind.ONE and given["hub_token"] == ["y"]
    assert list(marks_in(copy["n"] | {"t": {"hub_token": MARK}})) == ["t: hub_token"]
    assert without_named({"token": "x", "use_auth_token": True, "l": [{"password": "y", "beta": 1}]}) == {
        "use_auth_token": True,
        "l": [{"beta": 1}],
    }


def test_streams_write_none_and_are_otherwise_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)
    secrets.guard_streams()
    secrets.guard_streams()
    secrets.remember({"token": "hidden-value"})
    print("a hidden-value 中文")
    sys.stdout.writelines(["hidden-value"])
    assert out.getvalue() == f"a {MARK} 中文\n{MARK}"
    assert isinstance(sys.stdout, GuardedStream) and sys.stdout._stream is out and sys.stdout.isatty() is False
