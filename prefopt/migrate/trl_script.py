"""A script for TRL 0.7 to 1.16 -> one for prefopt: imports, names, and the arguments of configs and trainers.

What stood in a trainer's call before there were configs (TRL 0.7) goes into the config. Names are followed as far as
one assignment goes; what cannot be told is said by its line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ..training.declarations import public_names
from ..training.older_settings import DROPPED, RENAMED
from .edits import Source
from .notes import Migrated, Note
from .trl_names import CONFIG_OF, GONE, LOSSES, OTHER, SAME, TRAINER_DROPPED, TRAINER_RENAMED

TRAINING_ARGUMENTS = "TrainingArguments"
LEARNING_RATE = "5e-5"
"""That of TrainingArguments; each config here has one of its own."""
NEVER = ("packing", "use_liger_kernel")
"""Settings that are taken at their default alone, where another value only packs rows or saves memory."""

DONE = frozenset(("get_kbit_device_map",))
"""What is gone from TRL's names, and is taken out with the argument that it stands in."""


def migrated_script(text: str) -> Migrated:
    """The script as prefopt runs it.

    Raises:
        SyntaxError: it is no Python.
        ValueError: it has nothing of TRL.
    """
    migrated = _Script(Source(text)).migrated()
    try:
        ast.parse(migrated.text)
    except SyntaxError as error:
        note = Note(error.lineno or 1, "the edits do not fit together here: make those of these notes", by_hand=True)
        return Migrated(text, (*migrated.notes, note))
    return migrated


ARGS_SECOND = ("RewardTrainer", "SFTTrainer")
UNNAMED = {"DPOTrainer": 2, "KTOTrainer": 2, "PPOTrainer": 0, **dict.fromkeys(ARGS_SECOND, 2)}
"""Arguments without a name that mean the same to TRL's trainer and prefopt's; of others the model alone."""


class _Script:
    def __init__(self, source: Source):
        self.source = source
        self.notes: list[Note] = []
        self.names: dict[str, str] = {}
        """Name in the script -> TRL's."""
        self.imports: list[tuple[ast.ImportFrom, dict[str, None]]] = []
        """Imports of TRL's, with the names that are imported in their place."""
        self.modules: set[str] = set()
        """What the script calls the module `trl`."""
        self.nodes = list(ast.walk(source.tree))
        self.values = {
            target.id: node.value
            for node in self.nodes
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self.wanted: set[str] = set()
        """Names that are to be imported beside those that took the place of TRL's."""

    def migrated(self) -> Migrated:
        self._imports()
        if not self.names and not self.modules:
            raise ValueError("nothing is imported from trl: there is nothing to migrate")
        calls = [node for node in self.nodes if isinstance(node, ast.Call)]
        for call in calls:
            if (
                (name := self._called(call.func)) in {*SAME, *OTHER}
                and name.endswith("Config")
                and name != "ModelConfig"
            ):
                self._config(call, name)
        for call in calls:
            self._device_map(call)
        for call in calls:
            if (name := self._called(call.func)) and name.endswith("Trainer") and name not in GONE:
                self._trainer(call, name)
        self._uses()
        self._write_imports()
        return Migrated(self.source.edited(), tuple(sorted(set(self.notes))))

    def _note(self, node: ast.AST, text: str, by_hand: bool = False) -> None:
        self.notes.append(Note(getattr(node, "lineno", 1), text, by_hand))

    # ---- imports and names -------------------------------------------------------------------------------------------

    def _imports(self) -> None:
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "trl":
                        self.modules.add(alias.asname or "trl")
                        self.source.replace(alias, "prefopt" + (f" as {alias.asname}" if alias.asname else ""))
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trl":
                self._import_from(node)

    def _import_from(self, node: ast.ImportFrom) -> None:
        kept: dict[str, None] = {}
        for alias in node.names:
            self.names[alias.asname or alias.name] = alias.name
            if alias.name == "*":
                self._note(node, "import the names that are used instead of *", by_hand=True)
            if alias.name in SAME | {"*"}:
                kept[f"{alias.name} as {alias.asname}" if alias.asname else alias.name] = None
            elif alias.name in OTHER:
                named = OTHER[alias.name]
                kept[f"{named} as {alias.asname}" if alias.asname else named] = None
                self._note(node, f"{alias.name} is {named}")
            elif alias.name not in GONE:
                self._note(node, f"{alias.name} has no counterpart", by_hand=True)
        self.imports.append((node, kept))

    def _called(self, func: ast.AST) -> str:
        """TRL's name of what is called, empty where it is not TRL's."""
        if isinstance(func, ast.Name):
            return self.names.get(func.id, "")
        if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id in self.modules:
            return func.attr
        return ""

    def _uses(self) -> None:
        """Names that are called otherwise, and uses of those that are gone."""
        for node in self.nodes:
            if isinstance(node, ast.Name) and self.names.get(node.id) in OTHER and node.id == self.names[node.id]:
                self.source.replace(node, OTHER[node.id])
            elif isinstance(node, ast.Name) and node.id == "trl" and node.id in self.modules:
                self.source.replace(node, "prefopt")
            elif isinstance(node, ast.Attribute) and self._called(node) in OTHER:
                place = self.source.span(node.value)[1], self.source.span(node)[1]
                self.source.edits.append((place, f".{OTHER[node.attr]}"))
            elif isinstance(node, ast.Name | ast.Attribute) and (name := self._called(node)) in GONE.keys() - DONE:
                self._note(node, f"{name} {GONE[name]}", by_hand=True)

    def _write_imports(self) -> None:
        """The imports, the last of them with what came into use beside."""
        present = {name for _, kept in self.imports for name in kept}
        for number, (node, kept) in enumerate(self.imports, 1):
            names = [*kept, *sorted(self.wanted - present if number == len(self.imports) else ())]
            self.source.replace(node, f"from prefopt import {', '.join(names)}" if names else "import prefopt")

    # ---- configs -----------------------------------------------------------------------------------------------------

    def _config(self, call: ast.Call, name: str, added: Mapping[str, str] = {}) -> None:
        """A config's call: its settings under today's names, those that are gone taken out."""
        kind = OTHER.get(name, name)
        given = {str(keyword.arg): keyword for keyword in call.keywords if keyword.arg}
        more = dict(added)
        for argument, keyword in given.items():
            self._setting(call, argument, keyword, kind)
        if name in LOSSES:
            more |= self._loss(call, name, given)
        if more := {key: value for key, value in more.items() if key not in given}:
            self.source.add_arguments(call, more)

    def _setting(self, call: ast.Call, argument: str, keyword: ast.keyword, kind: str) -> None:
        if argument == "loss_type" and kind == "DPOConfig" and self._is(keyword.value, "kto_pair"):
            self.source.replace(keyword.value, '"kto"')
            return self._note(keyword, "loss_type kto_pair is kto")
        if argument in NEVER and argument in _settings(kind) and not self._is(keyword.value, False):
            self.source.remove_argument(call, keyword)
            return self._note(keyword, f"{argument} goes: {_instead(argument)}")
        if argument in _settings(kind):
            return None
        if argument in RENAMED and RENAMED[argument] in _settings(kind):
            self.source.rename(keyword, RENAMED[argument])
            return self._note(keyword, f"{argument} is {RENAMED[argument]}")
        self.source.remove_argument(call, keyword)
        if argument in DROPPED:
            return self._note(keyword, f"{argument} goes: {DROPPED[argument]}")
        return self._note(keyword, f"{argument} has no counterpart and was taken out: see whether it matters", True)

    def _loss(self, call: ast.Call, name: str, given: Mapping[str, ast.keyword]) -> dict[str, str]:
        """The loss that a config of its own stood for; CPO's has variants, of which two are here."""
        if "loss_type" not in given:
            return {"loss_type": f'"{LOSSES[name]}"'}
        keyword = given["loss_type"]
        if name == "CPOConfig" and self._is(keyword.value, "simpo"):
            alpha = given.get("cpo_alpha")
            if alpha is None or not self._is(alpha.value, 0.0, 0):
                weight = "1.0" if alpha is None else self.source.said(alpha.value)
                self.source.replace(keyword.value, '["simpo", "sft"]')
                self._note(keyword, "CPO adds cpo_alpha times the likelihood to SimPO: a mixture of losses here")
                return {"loss_weights": f"[1.0, {weight}]"}
        elif name == "CPOConfig" and self._is(keyword.value, "sigmoid"):
            self.source.replace(keyword.value, '"cpo"')
        elif name == "BCOConfig":
            self._note(keyword, "choose bco, kto or apo_zero_unpaired", by_hand=True)
        else:
            self._note(
                keyword, f"this loss_type of {name} is not here: `prefopt dpo --help-all` lists them", by_hand=True
            )
        return {}

    @staticmethod
    def _is(node: ast.AST, *values: Any) -> bool:
        return isinstance(node, ast.Constant) and node.value in values

    def _device_map(self, call: ast.Call) -> None:
        """The argument for which TRL has a function, and which is to be left out."""
        for keyword in call.keywords:
            inside = [node for node in ast.walk(keyword.value) if isinstance(node, ast.Call)]
            if any(self._called(node.func) in DONE for node in inside):
                self.source.remove_argument(call, keyword)
                self._note(keyword, f"{keyword.arg} goes: a process uses its own device")

    # ---- trainers ----------------------------------------------------------------------------------------------------

    def _trainer(self, call: ast.Call, name: str) -> None:
        kind = OTHER.get(name, name)
        if kind not in CONFIG_OF:
            return self._note(call, f"{name} has no counterpart: `prefopt --help` lists the methods", by_hand=True)
        if kind == "PPOTrainer" and self._steps_by_hand(call):
            return None
        if len(call.args) > UNNAMED.get(name, 1):
            return self._note(call, f"{name}: name the arguments after the first, whose order is another", by_hand=True)
        moved: dict[str, str] = {}
        for keyword in call.keywords:
            if keyword.arg is not None:
                moved |= self._trainer_argument(call, keyword, kind)
        if kind == "PPOTrainer" and not any(keyword.arg in ("reward_model", "scorer") for keyword in call.keywords):
            self._note(call, "PPOTrainer needs a scorer: a reward model, or a function of (prompts, responses)", True)
        return self._moved(call, kind, moved)

    def _trainer_argument(self, call: ast.Call, keyword: ast.keyword, kind: str) -> dict[str, str]:
        """What of an argument belongs into the config, as setting -> code."""
        name, value = str(keyword.arg), self.source.said(keyword.value)
        renamed = TRAINER_RENAMED.get(name, name)
        if renamed in _settings(CONFIG_OF[kind]) and renamed not in ("model", "args"):
            self.source.remove_argument(call, keyword)
            self._note(keyword, f"{name} stands in {CONFIG_OF[kind]} now" + (f", as {renamed}" * (renamed != name)))
            if renamed == "loss_type" and self._is(keyword.value, "kto_pair"):
                value = '"kto"'
            return {renamed: value} if name not in NEVER else {}
        if renamed != name:
            self.source.rename(keyword, renamed)
            self._note(keyword, f"{name} is {renamed}")
        elif name in TRAINER_DROPPED:
            self.source.remove_argument(call, keyword)
            self._note(keyword, f"{name} goes: {TRAINER_DROPPED[name]}")
        elif name == "data_collator":
            self.source.remove_argument(call, keyword)
            self._note(keyword, "data_collator goes: rows are collated by prefopt; answers alone are trained on", True)
        elif name in ("ref_model", "ref_policy") and self._is_copy(keyword.value):
            self._note(keyword, "ref_model can be left out where it is the model as training starts")
        elif name not in _PARAMETERS and name not in SFT_PARAMETERS:
            self.source.remove_argument(call, keyword)
            self._note(keyword, f"{name} has no counterpart and was taken out: see whether it matters", by_hand=True)
        return {}

    def _is_copy(self, value: ast.AST) -> bool:
        return not (isinstance(value, ast.Constant) and value.value is None)

    def _moved(self, call: ast.Call, kind: str, moved: dict[str, str]) -> None:
        """Settings of a trainer's call, put into its config; and a config of the right kind where it had none."""
        args = next((keyword.value for keyword in call.keywords if keyword.arg in ("args", "config")), None)
        if args is None and kind in ARGS_SECOND and len(call.args) > 1:
            args = call.args[1]
        made = self.values.get(args.id) if isinstance(args, ast.Name) else args
        if args is None:
            if moved:
                self.wanted.add(CONFIG_OF[kind])
                given = ", ".join(f"{name}={value}" for name, value in {"output_dir": '"output"', **moved}.items())
                self.source.add_arguments(call, {"args": f"{CONFIG_OF[kind]}({given})"})
            return
        if isinstance(made, ast.Call) and self._plain_name(made.func) == TRAINING_ARGUMENTS:
            self.wanted.add(CONFIG_OF[kind])
            self.source.replace(made.func, CONFIG_OF[kind])
            self._note(made, f"TrainingArguments is {CONFIG_OF[kind]}, with the learning_rate that it had by default")
            moved.setdefault("learning_rate", LEARNING_RATE)
            return self._config(made, CONFIG_OF[kind], moved)
        if moved and isinstance(made, ast.Call) and self._called(made.func):
            return self.source.add_arguments(made, moved)
        if parsed := self._parsed_kinds():
            moved = {name: value for name, value in moved.items() if not self._conflicts(kind, name)}
            for node in parsed:
                self.wanted.add(CONFIG_OF[kind])
                self.source.replace(node, CONFIG_OF[kind])
                self._note(node, f"TrainingArguments is {CONFIG_OF[kind]}")
        if moved:
            said = self.source.said(args)
            self.source.insert_before(
                self._statement(call), [f"{said}.{name} = {value}" for name, value in moved.items()]
            )

    def _parsed_kinds(self) -> list[ast.Name]:
        """TrainingArguments among the dataclasses that a parser is given."""
        parsers = [
            node
            for node in self.nodes
            if isinstance(node, ast.Call) and self._plain_name(node.func) in ("HfArgumentParser", "TrlParser")
        ]
        return [
            node
            for parser in parsers
            for node in ast.walk(parser)
            if isinstance(node, ast.Name) and node.id == TRAINING_ARGUMENTS
        ]

    def _conflicts(self, kind: str, name: str) -> bool:
        """Whether a dataclass of the script has a field that the config has too, which one parser cannot take twice."""
        own = [
            field
            for node in self.nodes
            if isinstance(node, ast.ClassDef)
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id == name
        ]
        for field in own:
            text = f"{name} is a setting of {CONFIG_OF[kind]} now: take it out here, and read it from there"
            self._note(field, text, by_hand=True)
        return bool(own)

    @staticmethod
    def _plain_name(func: ast.AST) -> str:
        return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""

    def _statement(self, call: ast.Call) -> ast.stmt:
        """The innermost statement that a call stands in."""
        around = [
            node for node in self.nodes if isinstance(node, ast.stmt) and any(each is call for each in ast.walk(node))
        ]
        return max(around, key=lambda node: node.lineno * 1000 + node.col_offset)

    def _steps_by_hand(self, call: ast.Call) -> bool:
        """TRL's first PPO, whose script generates, scores and steps by itself: say what takes its place."""
        steps = [
            node
            for node in self.nodes
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "step"
            and len(node.args) == 3
        ]
        for step in steps:
            loop = next(iter(self._loops(step)), step)
            last = getattr(loop, "end_lineno", loop.lineno)  # type: ignore[attr-defined]
            where = f"lines {loop.lineno} to {last} go" if last != loop.lineno else "this goes"  # type: ignore[attr-defined]
            self._note(
                loop,
                f"{where}: PPOTrainer generates, scores and learns by itself, in `trainer.train()`; what computed "
                "the rewards becomes scorer=function of (prompts, responses) -> numbers, or a reward model",
                by_hand=True,
            )
        if steps:
            self._note(
                call,
                "write PPOTrainer(model, PPOConfig(output_dir=...), train_dataset=prompts, scorer=...): the config, "
                "the reference, the value head and the loop of this version have no counterpart",
                by_hand=True,
            )
        return bool(steps)

    def _loops(self, call: ast.Call) -> Iterator[Any]:
        """The loops around a call, the outermost first."""
        for node in self.nodes:
            if isinstance(node, ast.For | ast.While) and any(each is call for each in ast.walk(node)):
                yield node


_PARAMETERS = frozenset(
    (
        *("model", "ref_model", "args", "train_dataset", "eval_dataset", "processing_class", "compute_metrics"),
        *("callbacks", "optimizers", "peft_config", "quantization_config", "scorer", "reward_model", "value_model"),
        *("critic", "ptx_dataset"),
    )
)
"""What trainers here take by the name that TRL has for it, or under one that is here alone."""
SFT_PARAMETERS = frozenset(("formatting_func",))


def _settings(config: str) -> frozenset[str]:
    """The names of a config's settings."""
    from pkgutil import resolve_name

    return frozenset(field.name for field in fields(resolve_name(public_names()[config])) if field.init)


def _instead(name: str) -> str:
    from ..training.trl_settings import SETTINGS

    return SETTINGS[name].instead
