"""The application: what is asked for over HTTP, and what is answered."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from pathlib import Path
from typing import Any, cast, get_args

from fastapi import FastAPI, HTTPException, Request
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response

from zoo import cards, extras, registry
from zoo._version import __version__
from zoo.errors import OptionError
from zoo.plugin import Form
from zoo.serve import describe, doors
from zoo.serve.desk import Ticket
from zoo.serve.guard import Guard
from zoo.serve.house import House
from zoo.serve.settings import Settings, served
from zoo.serve.uploads import Asked, Budget, Intake
from zoo.text import printable

MAX_FIELDS = 1000
MAX_TEXT = 64 << 10  # bytes of a field that is no file


def create(settings: Settings, house: House | None = None) -> FastAPI:
    """The application, guarded. ``house``: where the work is done, by default here.

    Raises ``PluginError`` for a model that isn't there.
    """
    for name in (*settings.models, *settings.weights):
        served(name, settings)
    house = house or House(settings)
    app = FastAPIOffline(
        title="zoo", version=__version__, lifespan=house.open, redoc_url=None,
        description="Medical-imaging papers as models. Results of research software: nothing here is for clinical use.",
    )  # fmt: skip
    app.state.house = house
    doors.errors(app)
    _about(app, house)
    _predictions(app, house)
    _jobs(app, house)
    paged = settings.page and not extras.missing("ui")
    doors.doors(app, settings, "/page" if paged else "/docs")
    if paged:
        from zoo.serve import page

        page.mount(app, house)
    app.add_middleware(Guard, settings=settings)
    return app


# ---- what there is -------------------------------------------------------------------------------------------------


def _about(app: FastAPI, house: House) -> None:
    @app.get("/health", tags=["server"], summary="Whether it serves, and how busy it is")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "busy": house.desk.taken, "places": house.desk.places}

    @app.get("/models", tags=["models"], summary="The models, as zoo list shows them")
    async def models(task: str | None = None, modality: str | None = None) -> list[dict[str, Any]]:
        chosen = {id(entry) for entry in registry.select(task=task, modality=modality)}
        return [describe.listed(entry) for entry in house.entries() if id(entry) in chosen]

    @app.get("/models/{name}", tags=["models"], summary="The card of a model, as zoo info shows it")
    async def info(name: str) -> dict[str, Any]:
        entry = house.entry(name)
        assert entry.plugin is not None
        more = {"example": cards.example(entry.plugin), "bibtex": entry.plugin.paper.bibtex()}
        return {**describe.listed(entry), **more}

    @app.get("/samples", tags=["models"], summary="Real images inside installed libraries, and drawn ones")
    async def samples() -> list[dict[str, str]]:
        return describe.samples()


# ---- predictions ---------------------------------------------------------------------------------------------------


def _predictions(app: FastAPI, house: House) -> None:
    async def predict(request: Request, name: str, format: str, form: str) -> Response:
        entry = house.entry(name)
        with house.desk.place():
            folder = await run_in_threadpool(house.temporary.new)
            try:
                asked = await _asked(request, entry, folder, house.settings)
                if format != "json":
                    asked.formats, asked.figure = (format,), format in ("figure", "zip")
                asked.form = _form(format if format in get_args(Form) else form)
                ticket = house.predict(asked)
                return await _answered(await _finished(ticket, request), format)
            finally:
                await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)

    async def start(request: Request, name: str, form: str) -> Response:
        entry = house.entry(name)
        with house.desk.place() as place:
            folder = await run_in_threadpool(house.temporary.new)
            try:
                asked = await _asked(request, entry, folder, house.settings)
                asked.formats, asked.figure, asked.form = ("zip",), True, _form(form)
                ticket = house.predict(asked)
            except BaseException:
                await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)
                raise
            place.keep(ticket)
        house.forget()
        key = secrets.token_urlsafe(16)
        house.jobs[key] = ticket, asked
        return JSONResponse(_status(key, ticket, asked), 202, {"location": f"/jobs/{key}"})

    def for_one(name: str) -> tuple[Any, Any]:
        async def predict_one(request: Request, format: str = "json", form: str = "auto") -> Response:
            return await predict(request, name, format, form)

        async def start_one(request: Request, form: str = "auto") -> Response:
            return await start(request, name, form)

        return predict_one, start_one

    for card in (entry.plugin for entry in house.entries() if entry.plugin is not None):
        described: dict[str, Any] = {"openapi_extra": describe.request_of(card), "methods": ["POST"]}
        described |= {"response_class": Response, "tags": [card.name], "responses": describe.RESPONSES}
        now, later = for_one(card.name)
        app.add_api_route(
            f"/models/{card.name}/predict", now, summary=card.summary, operation_id=f"predict {card.name}",
            description=describe.PREDICT, **described,
        )  # fmt: skip
        app.add_api_route(
            f"/models/{card.name}/jobs", later, summary="The same as a job, for what takes long", status_code=202,
            operation_id=f"start {card.name}", description=describe.START, **described,
        )  # fmt: skip

    # names as people write them, and the sentence for those that aren't there
    @app.post("/models/{name}/predict", include_in_schema=False)
    async def predict_any(request: Request, name: str, format: str = "json", form: str = "auto") -> Response:
        return await predict(request, name, format, form)

    @app.post("/models/{name}/jobs", include_in_schema=False)
    async def start_any(request: Request, name: str, form: str = "auto") -> Response:
        return await start(request, name, form)


def _form(stated: str) -> Form:
    """How masks and reports are written. Raises ``OptionError``."""
    if stated not in get_args(Form):
        raise OptionError(f"form must be one of {', '.join(get_args(Form))}, not {printable(stated, 40)!r}")
    return cast(Form, stated)


async def _asked(request: Request, entry: registry.Entry, folder: Path, settings: Settings) -> Asked:
    """The form of a request, checked. Raises ``ZooError``, or ``HTTPException`` for what is no form."""
    assert entry.plugin is not None
    intake = Intake(entry.plugin, folder, Budget(settings.upload, settings.files))
    kind = request.headers.get("content-type", "")
    if not kind.startswith(("multipart/form-data", "application/x-www-form-urlencoded")):
        raise HTTPException(400, "send a form: multipart/form-data with the files and options")
    async with request.form(max_files=settings.files, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT) as form:
        if sum(getattr(part, "size", 0) or 0 for _, part in form.multi_items()) < 1 << 20:
            _take_in(intake, form)
            return intake.asked(f"{entry.distribution}:{entry.name}")
        await run_in_threadpool(_take_in, intake, form)
        return await run_in_threadpool(intake.asked, f"{entry.distribution}:{entry.name}")


def _take_in(intake: Intake, form: FormData) -> None:
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            if part.filename or part.size:  # a browser sends an empty part for a field without a file
                intake.file(name, part.filename or "", part.file)
        else:
            intake.text(name, part)


async def _finished(ticket: Ticket[Any], request: Request) -> Any:
    """What comes of a ticket; when the sender goes, it is cancelled."""
    future = asyncio.wrap_future(ticket.future)
    gone: asyncio.Task[Any] = asyncio.ensure_future(request.receive())  # type: ignore[arg-type]
    try:
        await asyncio.wait({future, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            ticket.cancel()
            await asyncio.wait({future})
            future.exception()
            raise ClientDisconnect
        return future.result()
    finally:
        gone.cancel()


async def _answered(answer: Any, format: str) -> Response:
    if format == "json":
        return _json(answer.body())
    path, kind = await run_in_threadpool(_file, answer, format)
    content = await run_in_threadpool(path.read_bytes)
    return Response(content, media_type=kind, headers={"content-disposition": _attachment(path.name)})


def _file(answer: Any, format: str) -> tuple[Path, str]:
    from zoo.serve import answers

    if format == "zip":
        return answers.packed(answer), "application/zip"
    path = answers.file_of(answer, format)
    return path, describe.media_type(path.name)


# ---- jobs ----------------------------------------------------------------------------------------------------------


def _jobs(app: FastAPI, house: House) -> None:
    def of(key: str) -> tuple[Ticket[Any], Asked]:
        if key not in house.jobs:
            raise HTTPException(404, "there is no such job; it may have ended long ago")
        return house.jobs[key]

    @app.get("/jobs/{key}", tags=["jobs"], summary="How far a job is")
    async def status(key: str) -> dict[str, Any]:
        return _status(key, *of(key))

    @app.delete("/jobs/{key}", tags=["jobs"], summary="Stop a job, or drop its results")
    async def cancel(key: str) -> dict[str, Any]:
        ticket, asked = of(key)
        if ticket.ended is not None:
            house.jobs.pop(key, None)
            await run_in_threadpool(shutil.rmtree, asked.folder, ignore_errors=True)
        else:
            await run_in_threadpool(ticket.cancel)
        return _status(key, ticket, asked)

    @app.get("/jobs/{key}/results", tags=["jobs"], summary="What came of a job", responses=describe.RESPONSES)
    async def results(key: str, format: str = "json") -> Response:
        ticket, _ = of(key)
        if ticket.ended is None:
            raise HTTPException(409, "the job is not finished; ask for its state first")
        answer = ticket.future.result()
        if format == "json":
            files = [{kind: f"/jobs/{key}/files/{name}" for kind, name in one.items()} for one in answer.files]
            return _json({**answer.body(), "files": files})
        return await _answered(answer, format)

    @app.get("/jobs/{key}/files/{name}", tags=["jobs"], summary="One file of a job", response_class=FileResponse)
    async def file(key: str, name: str) -> Response:
        ticket, _ = of(key)
        answer = ticket.future.result() if ticket.state == "done" else None
        if answer is None or name not in {one for files in answer.files for one in files.values()}:
            raise HTTPException(404, "there is no such file")
        headers = {"content-disposition": _attachment(name)}
        return FileResponse(answer.folder / name, media_type=describe.media_type(name), headers=headers)


def _status(key: str, ticket: Ticket[Any], asked: Asked) -> dict[str, Any]:
    state = {
        "id": key, "model": asked.model.rpartition(":")[2], "state": ticket.state,
        "progress": round(ticket.progress, 4), "done": ticket.done, "total": ticket.total, "before": ticket.before,
    }  # fmt: skip
    if ticket.state == "failed":
        error = ticket.future.exception()
        return {**state, "error": type(error).__name__, "detail": str(error), "status": doors.code_of(error)}
    return state


def _json(value: Any) -> Response:
    return Response(json.dumps(value, ensure_ascii=False, allow_nan=False), media_type="application/json")


def _attachment(name: str) -> str:
    plain = "".join(c if (c.isascii() and c.isalnum()) or c in "-_." else "_" for c in name)
    return f'attachment; filename="{plain}"'
