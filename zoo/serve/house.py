"""What all requests share: the desk, the models, the folder and the jobs."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from zoo import registry
from zoo.serve.desk import Desk, Ticket
from zoo.serve.settings import Settings, served
from zoo.serve.temporary import Temporary
from zoo.serve.uploads import Asked

MOST_JOBS = 200  # finished ones whose results are kept


class House:
    """What all requests share: the desk, the models, the folder and the jobs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.temporary = Temporary()  # which goes with the process, served or not
        self.desk = Desk(settings.queue, settings.seconds)
        self.jobs: dict[str, tuple[Ticket[Any], Asked]] = {}
        self._pool: Any = None

    def pool(self) -> Any:
        """On the thread of the desk, which imports torch."""
        if self._pool is None:
            from zoo.serve.pool import Pool

            self._pool = Pool(self.settings)
        return self._pool

    def predict(self, asked: Asked) -> Ticket[Any]:
        def work(ticket: Ticket[Any]) -> Any:
            from zoo.serve import answers

            return answers.predict(self.pool(), asked, ticket)

        return self.desk.submit(work)

    def entry(self, name: str) -> registry.Entry:
        return served(name, self.settings)

    def entries(self) -> list[registry.Entry]:
        """Those that are served; broken ones are shown where all are."""
        if not self.settings.models:
            return list(registry.entries())
        return [self.entry(name) for name in self.settings.models]

    def forget(self) -> None:
        """Drop the results of jobs that are long finished, the oldest first where there are many."""
        ended = {key: ticket.ended for key, (ticket, _) in self.jobs.items() if ticket.ended is not None}
        order = sorted(ended, key=lambda key: ended[key] or 0.0)
        for key in order:
            old = time.monotonic() - (ended[key] or 0.0) > self.settings.keep
            if old or len(ended) > MOST_JOBS:
                ended.pop(key)
                shutil.rmtree(self.jobs.pop(key)[1].folder, ignore_errors=True)

    @asynccontextmanager
    async def open(self, app: FastAPI) -> AsyncIterator[None]:
        async def tidy() -> None:
            while True:
                await asyncio.sleep(min(30.0, self.settings.keep))
                await run_in_threadpool(self.forget)

        tidying = asyncio.create_task(tidy())
        try:
            yield
        finally:
            tidying.cancel()
            await run_in_threadpool(self.desk.close)
            await run_in_threadpool(self.temporary.close)
