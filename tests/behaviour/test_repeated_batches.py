"""A pipeline whose replies are lost is sent again as a whole: no call of it has a second effect, however many it has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Backend

from behaviour.test_semantics import figures, lock
from voucher_sessions import AsyncVoucherSessions, Voucher, VoucherSessions

CHANGES = 10  # more than a key remembers


def sending_twice(client: Any, sent: list[int]) -> Any:
    """The client, which sends each batch twice, as redis-py does after a lost reply. ``sent``: how many commands."""
    make = client.pipeline

    def pipeline(**options: Any) -> Any:
        pipe = make(**options)
        execute = pipe.execute

        def twice(**options: Any) -> Any:
            commands = list(pipe.command_stack)
            sent.append(len(commands))
            first = execute(**options)

            def again() -> Any:
                pipe.command_stack = commands
                return execute(**options)

            async def both() -> Any:
                await first
                return await again()

            return both() if asyncio.iscoroutine(first) else again()

        pipe.execute = twice
        return pipe

    client.pipeline = pipeline
    return client


@pytest.fixture(params=["sync", "async"])
def batches(request: pytest.FixtureRequest, backend: Backend, loop: asyncio.AbstractEventLoop) -> Any:
    """Sends the calls that a function queues; the results, and how many commands each batch had."""

    def run(queue: Any, **options: Any) -> tuple[list[Any], list[int]]:
        sent: list[int] = []
        if request.param == "sync":
            pipe = VoucherSessions(sending_twice(backend.client(), sent)).pipeline()
            queue(pipe)
            return pipe.execute(**options), sent

        async def waiting() -> list[Any]:
            async with backend.async_client() as client:
                pipe = AsyncVoucherSessions(sending_twice(client, sent)).pipeline()
                queue(pipe)
                return await pipe.execute(**options)

        return loop.run_until_complete(waiting()), sent

    return run


def test_more_changes_of_one_session_than_its_key_remembers(backend: Backend, batches: Any) -> None:
    engine = VoucherSessions(backend.client())
    engine.put_voucher(Voucher(code="GIFT", credits=5000))

    def queue(pipe: Any) -> None:
        for number in range(CHANGES):
            pipe.validate("GIFT", credits=10 + number, session=lock("cart"))
        pipe.redeem("GIFT", session="cart", redemption_id="order")

    (*validations, redemption), sent = batches(queue)
    assert [each.session.credits for each in validations] == list(range(10, 10 + CHANGES))
    assert (redemption.credits, redemption.replayed) == (9 + CHANGES, False)
    assert engine.list_sessions("GIFT") == []
    assert figures(engine, "GIFT")["credits"] == (5000, 9 + CHANGES, 0, 4991 - CHANGES)
    assert sent == [2] * (CHANGES + 1), "one change of the session and ECHO in each part"


def test_more_changes_of_one_voucher_than_its_key_remembers(backend: Backend, batches: Any) -> None:
    def queue(pipe: Any) -> None:
        for number in range(CHANGES):
            pipe.put_voucher(Voucher(code="GIFT", credits=number)).delete_voucher("GIFT")
        pipe.put_voucher(Voucher(code="GIFT", credits=7), if_exists="raise")

    results, _ = batches(queue)
    assert [each.credits.limit for each in results[::2]] == [*range(CHANGES), 7]
    assert results[1::2] == [True] * CHANGES
    assert figures(VoucherSessions(backend.client()), "GIFT")["credits"] == (7, 0, 0, 7)


def test_changes_of_different_sessions_need_no_parts(backend: Backend, batches: Any) -> None:
    VoucherSessions(backend.client()).put_voucher(Voucher(code="GIFT", credits=5000))

    def queue(pipe: Any) -> None:
        for number in range(CHANGES):
            pipe.validate("GIFT", credits=10, session=lock(f"cart-{number}")).get_voucher("GIFT")

    results, sent = batches(queue)
    # Each is what the batch's second run found: by then all locks of the first run are there.
    assert all(each.valid for each in results[::2])
    assert results[-1].credits.locked == 10 * CHANGES
    assert sent == [2 * CHANGES + 1]


def test_a_change_of_each_cart_and_then_another_need_two_parts(backend: Backend, batches: Any) -> None:
    VoucherSessions(backend.client()).put_voucher(Voucher(code="GIFT", credits=5000))

    def queue(pipe: Any) -> None:
        for number in range(CHANGES):
            pipe.validate("GIFT", credits=10, session=lock(f"cart-{number}"))
            pipe.redeem("GIFT", session=f"cart-{number}", redemption_id=f"order-{number}")

    results, sent = batches(queue)
    assert all(each.valid for each in results[::2])
    assert [each.credits for each in results[1::2]] == [10] * CHANGES
    assert len(sent) == CHANGES + 1, "the calls of one voucher keep their order"

    def queue_carts(pipe: Any) -> None:
        for number in range(CHANGES):
            pipe.put_voucher(Voucher(code=f"V{number}", credits=10))
            pipe.validate(f"V{number}", credits=10, session=lock("cart"))
            pipe.redeem(f"V{number}", session="cart", redemption_id="order")

    results, sent = batches(queue_carts)
    assert [each.credits for each in results[2::3]] == [10] * CHANGES
    assert sent == [2 * CHANGES + 1, CHANGES + 1]


# A call that changes nothing when it runs first, and the next one, which its repetition must not undo.
def delete_then_put(pipe: Any) -> None:
    pipe.delete_voucher("NEW").put_voucher(Voucher(code="NEW", credits=100))


def release_then_validate(pipe: Any) -> None:
    pipe.release("GIFT", "cart").validate("GIFT", credits=10, session=lock("cart"))


def redeem_then_validate(pipe: Any) -> None:
    pipe.redeem("GIFT", session="cart", redemption_id="order").validate("GIFT", credits=10, session=lock("cart"))


def rollback_then_redeem(pipe: Any) -> None:
    pipe.rollback("GIFT", "order").redeem("GIFT", credits=10, redemption_id="order")


def keep_then_delete(pipe: Any) -> None:
    pipe.put_voucher(Voucher(code="GIFT", credits=1), if_exists="keep").delete_voucher("GIFT")


def validate_too_much_then_less(pipe: Any) -> None:
    pipe.validate("GIFT", credits=5001, session=lock("cart")).validate("GIFT", credits=10, session=lock("cart"))


@pytest.mark.parametrize(
    ("queue", "voucher", "locked", "used"),
    [
        (delete_then_put, "NEW", 0, 0),
        (release_then_validate, "GIFT", 10, 0),
        (redeem_then_validate, "GIFT", 10, 0),
        (rollback_then_redeem, "GIFT", 0, 10),
        (keep_then_delete, None, 0, 0),
        (validate_too_much_then_less, "GIFT", 10, 0),
    ],
)
def test_a_repetition_does_not_undo_what_later_calls_have_changed(
    backend: Backend, batches: Any, queue: Any, voucher: str | None, locked: int, used: int
) -> None:
    engine = VoucherSessions(backend.client())
    engine.put_voucher(Voucher(code="GIFT", credits=5000))
    first, second = batches(queue, raise_on_error=False)[0]
    assert not isinstance(second, Exception)
    if voucher is None:
        assert second is True
        assert engine.validate("GIFT").reason == "not_found"
        return
    state = engine.get_voucher(voucher)
    assert (state.credits.locked, state.credits.used) == (locked, used)
    assert not getattr(first, "released", False)
    assert isinstance(first, Exception) is (queue in (redeem_then_validate, rollback_then_redeem))
