"""Names to classes: built-in policies, entry points, and anyone's `module:Class` or `file.py:Class`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import zlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar, get_type_hints

from kvsim.errors import InputError, nearest
from kvsim.policy import Policy, parameter_defaults

PolicyClass = TypeVar("PolicyClass", bound=type[Policy])

_policies: dict[str, type[Policy]] = {}


def register(cls: PolicyClass) -> PolicyClass:
    """Enter a policy class under its `name`; a taken name is refused."""
    taken = _policies.get(cls.name)
    if taken is not None:
        raise ValueError(
            f"policy name {cls.name!r} is taken by {taken.__module__}.{taken.__qualname__}; "
            f"{cls.__module__}.{cls.__qualname__} needs another"
        )
    _policies[cls.name] = cls
    return cls


def policies() -> dict[str, type[Policy]]:
    """Return every known policy by name: the built-in ones, then those of entry points."""
    importlib.import_module("kvsim.policies")
    found = dict(_policies)
    for entry in entry_points(group="kvsim.policies"):
        if found.get(entry.name, entry) is not entry and _loaded(entry) is not found[entry.name]:
            raise InputError(f"entry point {entry.name} = {entry.value} takes the name of another policy")
        found[entry.name] = _loaded(entry)
    return found


def make_policy(text: str, defaults: dict[str, object] | None = None) -> Policy:
    """Build a policy from `NAME[:key=value…]`, `module:Class[:key=value…]` or `file.py:Class[:…]`.

    `defaults` are applied where the class has a parameter of that name and the text does not set it.
    """
    importlib.import_module("kvsim.policies")
    target, settings = _split(text)
    cls = policy_class(target)
    known = parameter_defaults(cls)
    given = {name: value for name, value in (defaults or {}).items() if name in known}
    for name, raw in settings.items():
        if name not in known:
            raise InputError(
                f"policy {target!r} has no parameter {name!r}{nearest(name, known)}; it takes "
                f"{', '.join(known) or 'none'}"
            )
        given[name] = _typed(_parse(raw), cls, name, target)
    if inspect.isabstract(cls):
        raise InputError(f"policy {target!r} does not implement {', '.join(sorted(cls.__abstractmethods__))}")
    return cls(**given)


def policy_class(target: str) -> type[Policy]:
    """Find the class that a name, `module:Class` or `file.py:Class` stands for."""
    if target in _policies:
        # To ask what is installed takes as long as a few hundred requests.
        return _policies[target]
    if ":" not in target:
        known = policies()
        if target not in known:
            raise InputError(
                f"unknown policy {target!r}{nearest(target, known)}; known: {', '.join(known)}, "
                "or module:Class, or file.py:Class"
            )
        return known[target]
    place, _, attribute = target.rpartition(":")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found = getattr(module, attribute, None)
    if found is None:
        raise InputError(f"policy {target!r}: {place} has no {attribute!r}{nearest(attribute, vars(module))}")
    return _checked(found, target)


def split_policies(text: str) -> list[str]:
    """Split at commas that are not inside brackets, as a parameter in JSON has them."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _split(text: str) -> tuple[str, dict[str, str]]:
    """Cut at colons before `key=`; others belong to module:Class or to a value."""
    head, *settings = re.split(r":(?=[A-Za-z_][\w-]*=)", text)
    name, colon, rest = head.partition(":")
    if colon and name in _policies:
        raise InputError(f"policy {text!r}: parameter {rest!r} needs a value, as in {name}:{rest}=…")
    pairs = [setting.partition("=") for setting in settings]
    return head, {key.replace("-", "_"): value.strip() for key, _, value in pairs}


def _loaded(entry: EntryPoint) -> type[Policy]:
    try:
        return _checked(entry.load(), f"entry point {entry.name}")
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"policy entry point {entry.name} = {entry.value} cannot be loaded: {error}"
        ) from error


def _parse(text: str) -> object:
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _typed(value: object, cls: type[Policy], name: str, target: str) -> object:
    """Refuse a value of another type than the constructor says; a type that cannot be asked passes."""
    try:
        hint = get_type_hints(cls.__init__).get(name, object)
        fits = isinstance(value, hint) and not (isinstance(value, bool) and hint in (int, float, int | None))
    except (NameError, TypeError):
        return value
    if fits or (hint in (float, float | None) and type(value) is int):
        return value
    kind = getattr(hint, "__name__", str(hint))
    raise InputError(f"policy {target!r}: {name} must be {kind}, got {value!r}")


def _load_module(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"policy module {name!r} cannot be imported: {error}") from error


def _load_file(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"policy file {str(path)!r} does not exist")
    name = f"kvsim_user_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"policy file {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(
            f"policy file {str(path)!r} fails on import: {type(error).__name__}: {error}"
        ) from error
    return module


def _checked(found: object, target: str) -> type[Policy]:
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise InputError(f"policy {target!r} is {found!r}, which is not a subclass of kvsim.Policy")
    if not getattr(found, "name", ""):
        raise InputError(f"policy {target!r} has no `name`")
    return found
