"""A ring wakes those who listen, and is not missed between looking and waiting."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

from wardround.hub.bell import Bell


def with_bell(body: Callable[[Bell], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(body(Bell(asyncio.get_running_loop())), 5.0)

    asyncio.run(main())


def test_a_ring_before_waiting_is_not_missed() -> None:
    async def body(bell: Bell) -> None:
        with bell.listen("arran") as place:
            bell.ring(["arran"])
            assert await place.rung(5.0)
            assert not await place.rung(0.0)

    with_bell(body)


def test_only_the_named_are_woken() -> None:
    async def body(bell: Bell) -> None:
        with bell.listen("arran") as arran, bell.listen("bute") as bute:
            bell.ring(["bute", "nobody"])
            assert await bute.rung(5.0)
            assert not await arran.rung(0.0)

    with_bell(body)


def test_who_ignores_what_a_ring_is_about_is_not_woken_by_it() -> None:
    async def body(bell: Bell) -> None:
        with bell.listen("arran", ignoring=["run 1"]) as busy, bell.listen("arran") as idle:
            bell.ring(["arran"], about="run 1")
            assert await idle.rung(5.0)
            assert not await busy.rung(0.0)
            bell.ring(["arran"], about="run 2")
            assert await busy.rung(5.0)
            bell.ring(["arran"])
            assert await busy.rung(5.0)

    with_bell(body)


def test_all_who_listen_to_a_name_are_woken() -> None:
    async def body(bell: Bell) -> None:
        with bell.listen("run") as one, bell.listen("run") as other:
            bell.ring(["run"])
            assert await one.rung(5.0)
            assert await other.rung(5.0)

    with_bell(body)


def test_a_ring_from_another_thread_wakes() -> None:
    async def body(bell: Bell) -> None:
        with bell.listen("arran") as place:
            thread = threading.Thread(target=bell.ring, args=(["arran"],))
            thread.start()
            assert await place.rung(5.0)
            thread.join()

    with_bell(body)


def test_who_has_gone_is_forgotten() -> None:
    async def body(bell: Bell) -> None:
        with bell.listen("arran"):
            pass
        assert not bell._waiting
        bell.ring(["arran"])
        await asyncio.sleep(0)

    with_bell(body)


def test_closing_wakes_everybody() -> None:
    async def body(bell: Bell) -> None:
        with bell.listen("arran") as arran, bell.listen("bute") as bute:
            bell.close()
            assert bell.is_closing
            assert await arran.rung(5.0)
            assert await bute.rung(5.0)

    with_bell(body)


def test_a_ring_after_the_loop_has_closed_does_nothing() -> None:
    loop = asyncio.new_event_loop()
    bell = Bell(loop)
    loop.close()
    bell.ring(["arran"])
