"""text -> instruction: which prompt is put before a text. Pure: strings in, strings out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sightline.errors import UnknownInstruction, UsageError
from sightline.protocols import InstructionLike
from sightline.types import Instruction, Role

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PLACE = "{instruction}"
# A stored query prompt of this shape shows the model's template: what stands between head and tail is the task.
_INSTRUCT_PROMPT = re.compile(r"(?P<head>Instruct: )(?P<task>.+?)(?P<tail>\nQuery: ?)", re.DOTALL)
# sentence-transformers looks for a document's prompt under these names, in this order.
_ROLE_NAMES = {Role.QUERY: ("query",), Role.DOCUMENT: ("document", "passage", "corpus")}


def template_of(prompts: Mapping[str, str]) -> str | None:
    """The model's instruction template, read off its stored query prompt: `Instruct: {instruction}\\nQuery:` or None."""
    found = _INSTRUCT_PROMPT.fullmatch(prompts.get("query", ""))
    return f"{found['head']}{_PLACE}{found['tail']}" if found else None


def check_template(template: str) -> str:
    """Return `template` if it has exactly one `{instruction}`; raise UsageError otherwise."""
    if template.count(_PLACE) != 1:
        example = f"'Instruct: {_PLACE}\\nQuery:'"
        raise UsageError(f"An instruction template holds {_PLACE!r} exactly once, e.g. {example}; got {template!r}.")
    return template


@dataclass(frozen=True)
class Instructions:
    """The prompts that one embedder knows.

    Args:
        prompts: The model's own presets: name -> literal prompt.
        template: Where a task sentence goes; None makes a sentence a literal prefix.
        custom: The user's registry: name -> task sentence (goes through the template). Wins over a preset of that name.
        default_name: Preset that the model applies when nothing is asked for and the role has no preset of its own.
        query: Default instruction of queries; None is the model's own.
        document: Default instruction of documents; None is the model's own.

    Raises:
        UnknownInstruction: `query` or `document` is an unknown name.
        UsageError: A name in `custom` isn't a name, or a sentence already holds the template.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    custom: Mapping[str, str | Instruction] = field(default_factory=dict)
    default_name: str | None = None
    query: InstructionLike = None
    document: InstructionLike = None

    def __post_init__(self) -> None:
        for name in self.custom:
            if not _NAME.fullmatch(name):
                raise UsageError(f"An instruction's name matches [A-Za-z0-9_.-]{{1,64}}; got {name!r}.")
        if self.template is not None:
            check_template(self.template)
        for role in Role:  # wrong defaults are found here, not at the first text
            self.prompt(role)
        self.known()

    def known(self) -> dict[str, str]:
        """Every name with the literal prompt it stands for."""
        return {**self.prompts, **{name: self._sentence(task) for name, task in self.custom.items()}}

    def prompt(self, role: Role, instruction: InstructionLike = None) -> str:
        """The literal prompt for `role`; "" is none.

        Raises:
            UnknownInstruction: A name that neither the model nor the user defined.
            UsageError: A sentence that already holds the template.
        """
        if instruction is None:
            instruction = self.query if role is Role.QUERY else self.document
        if instruction is None:
            return self._default(role)
        if isinstance(instruction, Instruction):
            return self._sentence(instruction)
        if not instruction:
            return ""
        return self._named(instruction) if _NAME.fullmatch(instruction) else self._sentence(instruction)

    def _default(self, role: Role) -> str:
        names = _ROLE_NAMES[role] if self.default_name is None else (*_ROLE_NAMES[role], self.default_name)
        return next((self._named(name) for name in names if name in self.custom or name in self.prompts), "")

    def _named(self, name: str) -> str:
        if name in self.custom:
            return self._sentence(self.custom[name])
        if name not in self.prompts:
            names = ", ".join(sorted({*self.prompts, *self.custom})) or "none"
            raise UnknownInstruction(
                f"Unknown instruction {name!r}. Known here: {names}. "
                "Write a whole sentence (or Instruction(text=...)) for a free instruction."
            )
        return self.prompts[name]

    def _sentence(self, instruction: str | Instruction) -> str:
        text = instruction.text if isinstance(instruction, Instruction) else instruction
        if self.template is None or not text:
            return text
        head, tail = self.template.split(_PLACE)
        if (head.strip() and text.startswith(head.strip())) or (tail.strip() and tail.strip() in text):
            raise UsageError(
                f"The instruction {text!r} already holds the model's template {self.template!r}. Pass the task sentence alone."
            )
        return head + text + tail
