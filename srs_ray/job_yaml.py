"""The YAML of job files: what can be read in two ways, or grows beyond any job, is refused with its place."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

LARGEST_FILE = 2**20  # bytes
LONGEST_NUMBER = 40  # characters
DEEPEST = 30  # levels of nesting
MOST_VALUES = 50_000  # with every alias written out

# What YAML 1.1 takes for a number in a way that nobody who writes it means: base 60, and base 8.
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_BASE_8 = re.compile(r"[-+]?0[0-7_]+")


def read_yaml(text: str) -> Any:
    """The values of a YAML text: mappings, lists, text, numbers, true and false, null and dates.

    Raises yaml.YAMLError with the place for text that is no YAML, a name set twice, nesting below DEEPEST, aliases that
    stand for more than MOST_VALUES values or for themselves, and numbers in base 60 or 8 (1:30, 0100).
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        if self._nodes > MOST_VALUES:
            raise ComposerError(None, None, f"more than {MOST_VALUES:,} values", self.peek_event().start_mark)
        if self._depth > DEEPEST:
            raise ComposerError(None, None, f"more than {DEEPEST} levels of nesting", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A setting written twice is a mistake, not a choice; one that `<<` merges in gives way to one written here."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ComposerError(None, None, f"{key.value!r} is set twice", key.start_mark)
                seen.add(key.value)
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        _check_size(node, {}, 0)
        return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """What PyYAML raises for an unfit text after a tag, such as `!!int x`, tells no place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"no readable {kind}: {error}", node.start_mark) from error

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        written = self.construct_scalar(node)
        assert isinstance(written, str)
        if len(written) > LONGEST_NUMBER:
            found = f"a number of {len(written):,} characters"
            raise ConstructorError(None, None, found, node.start_mark)
        if _BASE_60.fullmatch(written) or _BASE_8.fullmatch(written):
            base = 60 if ":" in written else 8
            raise ConstructorError(
                None,
                None,
                f"{written} would be read as a number in base {base}: write the number, or the text in quotes",
                node.start_mark,
            )
        if node.tag == "tag:yaml.org,2002:int":
            return self.construct_yaml_int(node)
        return self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def _check_size(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """How many values a node stands for with every alias written out; `sizes` has those of nodes that were met, 0
    while they are being counted."""
    known = sizes.get(id(node))
    if known == 0:
        raise ConstructorError(None, None, "an alias stands for what holds it", node.start_mark)
    if known is not None:
        return known
    if depth > DEEPEST:
        raise ConstructorError(None, None, f"aliases that nest more than {DEEPEST} levels deep", node.start_mark)
    sizes[id(node)] = 0
    if isinstance(node, yaml.MappingNode):
        held = [each for pair in node.value for each in pair]
    else:
        held = node.value if isinstance(node, yaml.SequenceNode) else []
    size = 1 + sum(_check_size(each, sizes, depth + 1) for each in held)
    if size > MOST_VALUES:
        raise ConstructorError(None, None, f"aliases that stand for more than {MOST_VALUES:,} values", node.start_mark)
    sizes[id(node)] = size
    return size
