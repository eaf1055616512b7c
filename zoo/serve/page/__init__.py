"""The page: every model's, made from its card, on the server that answers for it. Needs the extra ``ui``."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI, HTTPException
from starlette.responses import Response

PATH = "/page"
CSS = """
.zoo-refusal { border-left: 6px solid #b00020; padding: 10px 14px; background: #fdecea; color: #5f0010; }
.zoo-told ul { margin: 4px 0 12px 20px; list-style: disc; }
footer { display: none !important; }
"""


def mount(app: FastAPI, house: Any) -> None:
    """Put the page on an application."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    os.environ["GRADIO_TEMP_DIR"] = str(house.temporary.folder / "page")  # read at every upload
    import gradio as gr

    from zoo.serve.page.blocks import Page

    page = Page(house)

    @app.get("/pictures/{key}", include_in_schema=False)
    async def picture(key: str) -> Response:
        if key not in page.pictures:
            raise HTTPException(404, "there is no such picture any more")
        return Response(page.pictures[key], media_type="image/png")

    fonts = ["system-ui", "sans-serif"]
    gr.mount_gradio_app(
        app, page.blocks(), PATH, show_error=True, max_file_size=house.settings.upload, footer_links=[], css=CSS,
        ssr_mode=False, pwa=False, enable_monitoring=False,
        theme=gr.themes.Default(primary_hue="teal", font=fonts, font_mono=["ui-monospace", "monospace"]),
    )  # fmt: skip
