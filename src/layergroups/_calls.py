"""Calls and names that are not there, answered with what is; nothing is looked at until one fails.

`taught` is for functions, `Taught` for classes with all their public methods. What users of fastai
type is in `fastai_names`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from layergroups.errors import ArgumentError, NoAttributeError

_F = TypeVar("_F", bound=Callable[..., Any])


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def taught(function: _F) -> _F:
    """The function; a call whose arguments do not fit it raises an `ArgumentError` that helps.

    Signature, name and text stay those of the function. A TypeError from within it stays as it is.
    """

    @wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except TypeError as error:
            # without a frame below this one, the function was not entered
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
            raise misfit(function, given, named) from None

    return cast(_F, called)


def misfit(
    function: Callable[..., Any],
    given: Sequence[Any],
    named: Mapping[str, Any],
    title: str | None = None,
) -> ArgumentError:
    """What is wrong with arguments that do not fit a function.

    Args:
        function: what was called; of a method, the plain function.
        given: arguments by position, the object or the class too.
        named: arguments by name.
        title: what to call the function; None for its own name.
    """
    from layergroups._fastai_names import argument_here

    signature = inspect.signature(function)
    bound = next(iter(signature.parameters), "") in ("self", "cls")
    takes = list(signature.parameters.values())[bound:]
    call, known = title or _title(function, given if bound else ()), _names(takes)
    open_end = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes)
    for name in named:
        # with ** the function itself knows what more it takes
        if name not in known and (not open_end or argument_here(function.__name__, name)):
            return unknown_argument(call, name, known)
    if len(given) - bound > sum(each.kind in _BY_POSITION for each in takes):
        return _too_many(call, takes, len(given) - bound)
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        return ArgumentError(f"{call}: {error}. It takes {', '.join(known)}.")
    return ArgumentError(f"{call} does not take these arguments. It takes {', '.join(known)}.")


def _too_many(call: str, takes: Sequence[inspect.Parameter], given: int) -> ArgumentError:
    """What to say of more arguments by position than a call takes."""
    first = [each.name for each in takes if each.kind in _BY_POSITION]
    rest = [f"{each.name}=" for each in takes if each.kind is inspect.Parameter.KEYWORD_ONLY]
    rest += ["others" for each in takes if each.kind is inspect.Parameter.VAR_KEYWORD]
    return ArgumentError(
        f"{call} takes at most {len(first)} arguments by position ({', '.join(first)}), not "
        f"{given}. By name it takes {', '.join(rest) or 'no others'}."
    )


def unknown_argument(call: str, name: str, known: Iterable[str]) -> ArgumentError:
    """What to say of an argument that a call has not.

    Args:
        call: what was called, such as "Learner.fit".
        name: of the argument.
        known: those that there are.
    """
    from layergroups._fastai_names import argument_here

    known = list(known)
    here = argument_here(call.rpartition(".")[2], name)
    if here:
        return ArgumentError(f"{call} has no argument {name}=; {here}.")
    return ArgumentError(
        f"{call} has no argument {name}=.{nearest(name, known, '=')} It takes {', '.join(known)}."
    )


def unknown_option(function: Callable[..., Any], name: str, more: Iterable[str]) -> ArgumentError:
    """What to say of an argument of a function that takes others by `**`, but not this one.

    Args:
        function: what was called; a class method as it comes from its class.
        name: of the argument.
        more: the others that it takes.
    """
    owner = getattr(function, "__self__", None)
    own = _names(inspect.signature(function).parameters.values())
    call = _title(function, () if owner is None else (owner,))
    return unknown_argument(call, name, [*own, *more])


def nearest(name: str, known: Iterable[str], end: str = "") -> str:
    """A sentence with the name that was perhaps meant; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" Perhaps you meant {near[0]}{end}." if near else ""


class _TaughtClass(type):
    """The class of classes whose absent names are explained."""

    if not TYPE_CHECKING:  # or type checkers would take any name for one that is there

        def __getattr__(cls, name: str) -> Any:
            raise _absent(cls, name, dir(cls))


class Taught(metaclass=_TaughtClass):
    """Calls that do not fit, and names that are not there, are answered with what would be right.

    For those who derive from it nothing changes: their public methods are `taught` when the class
    is made, and keep their signatures; `hasattr` and `getattr` with a default work as ever.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, value in list(vars(cls).items()):
            if name.startswith("_") and name != "__init__":
                continue
            if isinstance(value, FunctionType):
                setattr(cls, name, taught(value))
            elif isinstance(value, classmethod):
                setattr(cls, name, classmethod(taught(value.__func__)))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            kind = type(self)
            if any(name in vars(each) for each in kind.__mro__):
                return object.__getattribute__(self, name)  # a property failed: let it say how
            raise _absent(kind, name, dir(self))


def _absent(kind: type, name: str, known: Iterable[str]) -> NoAttributeError:
    """What to say of an attribute that is not there."""
    from layergroups._fastai_names import attribute_here

    hint = "."
    if not name.startswith("_"):
        here = attribute_here([each.__name__ for each in kind.__mro__], name)
        public = [each for each in known if not each.startswith("_")]
        hint = f"; {here}." if here else f".{nearest(name, public)}"
    # obj=None: Python shall neither keep the object alive nor add a guess of its own
    return NoAttributeError(f"{kind.__name__} has no {name}{hint}", name=name, obj=None)


def _title(function: Callable[..., Any], given: Sequence[Any]) -> str:
    """The function as one writes it: "Learner.fit", "Learner", "vision_learner"."""
    if not given:
        return function.__name__
    owner = given[0] if isinstance(given[0], type) else type(given[0])
    if function.__name__ == "__init__":
        return owner.__name__
    return f"{owner.__name__}.{function.__name__}"


def _names(takes: Iterable[inspect.Parameter]) -> list[str]:
    return [each.name for each in takes if each.kind not in _REST]
