"""Docstrings of the public interface: whole in each place, and the same text for the same verb."""

from __future__ import annotations

import inspect
import re
from types import FunctionType, ModuleType
from typing import Any

import pytest

import voucher_sessions
from voucher_sessions import AsyncVoucherSessions, VoucherSessions, models
from voucher_sessions.pipelines import AsyncPipeline, Pipeline

QUEUED = (
    "This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors below "
    "are those of ``execute``, except ``InvalidRequest``, which is raised at once."
)


def public_members(cls: type[Any]) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers(
            cls, lambda found: inspect.isroutine(found) or isinstance(found, property)
        )
        if not name.startswith("_")
    }


def paragraphs(member: Any) -> list[str]:
    """The paragraphs of a docstring, each on one line."""
    return [" ".join(part.split()) for part in (inspect.getdoc(member) or "").split("\n\n")]


def own_parameters(member: Any) -> list[str]:
    return [name for name in inspect.signature(member).parameters if name != "self"]


ENGINE, ASYNC_ENGINE = public_members(VoucherSessions), public_members(AsyncVoucherSessions)
PIPELINE, ASYNC_PIPELINE = public_members(Pipeline), public_members(AsyncPipeline)
QUEUED_VERBS = sorted(ENGINE.keys() & PIPELINE.keys())
MEMBERS = [
    (cls, name, member)
    for cls in (VoucherSessions, AsyncVoucherSessions, Pipeline, AsyncPipeline)
    for name, member in public_members(cls).items()
]


@pytest.mark.parametrize("name", sorted(ENGINE))
def test_both_engines_say_the_same(name: str) -> None:
    twin = ASYNC_ENGINE["aclose" if name == "close" else name]
    assert inspect.getdoc(ENGINE[name]) == inspect.getdoc(twin)


def test_both_pipelines_say_the_same() -> None:
    assert PIPELINE.keys() == ASYNC_PIPELINE.keys()
    for name, member in PIPELINE.items():
        assert inspect.getdoc(member) == inspect.getdoc(ASYNC_PIPELINE[name])


@pytest.mark.parametrize("name", QUEUED_VERBS)
def test_a_pipeline_says_the_same_and_that_the_call_is_queued(name: str) -> None:
    first, *rest = paragraphs(ENGINE[name])
    assert paragraphs(PIPELINE[name]) == [
        first,
        QUEUED,
        *(re.sub("^Returns:", "Result of ``execute``:", paragraph) for paragraph in rest),
    ]


def test_a_pipeline_queues_every_verb_but_the_operators() -> None:
    assert ENGINE.keys() - PIPELINE.keys() == {
        "audit",
        "check_server",
        "client",
        "close",
        "from_url",
        "iter_sessions",
        "ping",
        "pipeline",
        "repair",
    }


@pytest.mark.parametrize(
    ("cls", "name", "member"), MEMBERS, ids=[f"{cls.__name__}.{name}" for cls, name, _member in MEMBERS]
)
def test_a_docstring_is_whole(cls: type[Any], name: str, member: Any) -> None:
    """It describes each parameter, and says what is raised where a call can fail."""
    text = inspect.getdoc(member) or ""
    first = text.split("\n")[0]
    assert 30 <= len(first) <= 120
    assert first.endswith(".")
    assert not re.search(r"(?m)^See ", text)
    parameters = [] if isinstance(member, property) else own_parameters(member)
    for parameter in parameters:
        assert re.search(rf"(?m)^    (\*\*)?{parameter}: \S", text), (
            f"{cls.__name__}.{name} does not describe {parameter}"
        )
    if parameters:
        assert "\nRaises:\n" in text


def described_in(module: ModuleType, name: str) -> str:
    """The text below the assignment of a name in a module: the description of an alias, which has no docstring."""
    found: list[str] = re.findall(rf'^{name} = .*\n"""([^"]*)"""', inspect.getsource(module), re.MULTILINE)
    return found[0]


@pytest.mark.parametrize("name", voucher_sessions.__all__)
def test_public_names_are_described_without_references_to_unpublished_documents(name: str) -> None:
    found = getattr(voucher_sessions, name)
    text = (found.__doc__ if isinstance(found, type | FunctionType) else described_in(models, name)) or ""
    assert len(text.split()) >= 5
    assert not re.search(r"(?i)\bDESIGN\b|semantics \d|\bseed\b", text)


@pytest.mark.parametrize(
    "name", ["put_voucher", "adjust", "delete_voucher", "validate", "extend", "redeem", "release", "rollback"]
)
def test_a_verb_that_changes_something_says_what_a_lost_reply_means(name: str) -> None:
    for verb in (name, f"{name}_stack"):
        if verb in ENGINE:
            assert re.search(
                r"    OutcomeUnknown: The reply was lost.*Repeat", inspect.getdoc(ENGINE[verb]) or "", re.DOTALL
            )


@pytest.mark.parametrize("model", [models.Voucher, models.Used, models.Session, models.Redeemable, models.Durability])
def test_help_of_a_model_shows_its_fields_and_what_its_constructor_raises(model: type[Any]) -> None:
    assert list(inspect.signature(model).parameters) == list(model.model_fields)
    assert "InvalidRequest" in (inspect.getdoc(model.__init__) or "")


def test_the_engines_begin_with_the_same_sentence() -> None:
    first, of_async = paragraphs(VoucherSessions)[0], paragraphs(AsyncVoucherSessions)[0]
    assert of_async == first.removesuffix(".") + ", with asyncio."
