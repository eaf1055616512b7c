"""The model card of a repository on the Hub: metadata that the Hub can search, and a page that a stranger can use.

Everything on it is read from the plugin's own card, the record in ``config.json`` and the files beside the weights;
what no file states is called "not stated" or "not run".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from zoo import cards
from zoo.errors import WeightsError
from zoo.plugin import Plugin

PIPELINE_TAGS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "multi-task": "image-classification",
    "report": "image-to-text",
    "reconstruction": "image-to-image",
    "registration": "other",
    "detection": "object-detection",
    "measurement": "other",
    "embedding": "image-feature-extraction",
}


def model_card(
    plugin: Plugin, record: Mapping[str, Any], folder: Path, repo: str, *, demo: bool = False, answered: bool = False
) -> str:
    """The ``README.md`` for weights in ``folder``.

    ``record`` is the content of ``config.json``; ``answered`` says that an answer is stored beside them, ``demo`` that
    these are the weights the plugin ships, whose measurements stand on its card. Raises ``WeightsError`` if the
    metadata is invalid.
    """
    from huggingface_hub import ModelCard, ModelCardData

    shipped = plugin.weights if demo else None
    run = _read(folder / "run.json").get("identity", {})
    trained_on = str(record.get("trained_on") or (shipped.trained_on if shipped else "") or "not stated")
    metrics = _metrics(folder) or dict(shipped.metrics if shipped else {})
    licence = shipped.licence if shipped else str(record.get("licence") or "other")
    evaluated_on = str(_evaluation(folder).get("data") or trained_on)
    try:
        metadata = ModelCardData(
            library_name="medimg-zoo",
            pipeline_tag=PIPELINE_TAGS[plugin.task],
            license=licence.lower(),
            license_name="see-model-card" if licence.lower() == "other" else None,
            tags=["medical-imaging", plugin.name, plugin.task, *_modalities(plugin)],
            datasets=_datasets(trained_on) or None,
            metrics=[_slug(name) for name in metrics] or None,
            model_name=plugin.name,
            eval_results=[_result(plugin, name, value, evaluated_on) for name, value in metrics.items()] or None,
        )
        text = f"---\n{metadata.to_yaml()}\n---\n\n" + _body(
            plugin,
            record,
            repo,
            trained_on,
            run,
            metrics,
            evaluated_on,
            licence,
            shipped.command if shipped else None,
            answered,
        )
        return str(ModelCard(text))
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"the model card of {repo} has invalid metadata: {error}; mend the card of {plugin.name}"
        ) from error


def check_card(text: str, source: str) -> None:
    """Raises ``WeightsError`` when the metadata of a card is missing or invalid by the Hub client's own rules."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(text)
        if not text.lstrip().startswith("---") or not len(card.data.to_dict()):
            raise ValueError("it has no metadata block between two lines of ---")
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"the model card {source} has invalid metadata: {reason}; mend or delete it") from error


def _result(plugin: Plugin, name: str, value: float, data: str) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=PIPELINE_TAGS[plugin.task],
        dataset_type=_slug(data) or "not-stated",
        dataset_name=data,
        metric_type=_slug(name),
        metric_name=name,
        metric_value=round(float(value), 6),
    )


def _body(
    plugin: Plugin,
    record: Mapping[str, Any],
    repo: str,
    trained_on: str,
    run: Mapping[str, Any],
    metrics: Mapping[str, float],
    evaluated_on: str,
    licence: str,
    command: str | None,
    answered: bool,
) -> str:
    disclaimer = cards.sentence(str(record.get("disclaimer") or "for research; not for clinical use"))
    made_with = f"{record.get('distribution', '')} {record.get('version', '')}".strip()
    recipe = run.get("recipe") if isinstance(run.get("recipe"), dict) else {}
    extras = f"[{','.join(plugin.extras)}]" if plugin.extras else ""
    package = f"'{record.get('distribution') or 'medimg-zoo'}{extras}'"
    sections = {
        plugin.title: f"{plugin.summary}\n\n"
        + _bullets(
            {
                "Model": f"`{plugin.name}` of {made_with or 'medimg-zoo'}",
                "Task": plugin.task,
                "Modality": plugin.modality,
                "Labels": ", ".join(map(str, record.get("labels") or plugin.labels)) or "none",
                "Licence": licence,
            }
        ),
        "Paper": cards.paper(plugin),
        "Departures from the paper": cards.table(["what", "why", "effect"], cards.departure_rows(plugin))
        if plugin.departures
        else "",
        "Intended use and limits": f"{disclaimer}"
        f" The network expects: {plugin.primary_input.help}. On anything else its output means nothing."
        + (f"\n\nOn licences: {plugin.licence_notes}" if plugin.licence_notes else ""),
        "Training data": cards.sentence(trained_on),
        "Recipe": (f"Made by `{command}`.\n\n" if command else "")
        + (
            cards.table(["field", "value"], [[f"`{name}`", f"`{json.dumps(value)}`"] for name, value in recipe.items()])
            if recipe
            else ""
            if command
            else "Not stated."
        ),
        "Measured": cards.table(["metric", "value"], [[name, f"{value:.4g}"] for name, value in metrics.items()])
        + f"\n\nMeasured on: {evaluated_on}."
        if metrics
        else "Not measured.",
        "Claim": cards.claim(plugin),
        "How to load": f"```sh\npip install {package}\n{cards.example(plugin)} --weights hf://{repo}\n```\n\n"
        f'```python\nimport zoo\n\nmodel = zoo.load("{plugin.name}", weights="hf://{repo}")\n'
        f'model.predict("{cards.trial(plugin)}").figure().show()\n```\n\n'
        f"Append `@` and a commit hash to the address to pin the weights."
        + (
            "\n\nWhether they still answer here as their author saw:\n\n"
            f"```sh\nzoo test {plugin.name} --weights hf://{repo}\n```"
            if answered
            else ""
        ),
    }
    title, *parts = [f"{title}\n\n{text.strip()}" for title, text in sections.items() if text]
    return "\n\n## ".join([f"# {title}", *parts]) + "\n"


def _evaluation(folder: Path) -> dict[str, Any]:
    """What ``zoo evaluate --out`` wrote into the folder."""
    return _read(folder / "evaluation.json")


def _metrics(folder: Path) -> dict[str, float]:
    listed = _evaluation(folder).get("metrics")
    return {
        str(item["name"]): float(item["mean"])
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict) and "name" in item and isinstance(item.get("mean"), (int, float))
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _datasets(trained_on: str) -> list[str]:
    """Names for the metadata from specifications such as ``phantom:fundus?n=40``; prose gives none."""
    return sorted({_slug(spec) for spec in re.findall(r"\b(?:phantom|hf|sample):[\w./-]*\w", trained_on)})


def _modalities(plugin: Plugin) -> list[str]:
    return [_slug(part) for part in re.split(r"[:,;]", plugin.modality) if _slug(part)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80]


def _bullets(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}:** {value}" for name, value in facts.items())
